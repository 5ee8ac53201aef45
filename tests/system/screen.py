"""A terminal's screen, for tests: what a user would see, and find when scrolling back.

It knows what the client may write, and notes anything else as a fault. Terminals differ,
so it has two settings:

    reflow   when the window's width changes, long rows are broken and joined again (tmux,
             VTE); otherwise they are cut (xterm, st)
    joins    an emoji of several parts takes two columns; otherwise each part has its own
"""
import re
import unicodedata
from typing import List


def columns(char: str) -> int:
    if unicodedata.combining(char) or char in "\u200d\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def is_flag_half(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


class Row:
    """A cell holds a character with its marks; "" is the right half of a wide one."""

    def __init__(self, width: int) -> None:
        self.cells = [" "] * width
        self.wrapped = False  # the next row continues this one


class Screen:
    ESCAPE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")

    def __init__(self, width: int, height: int, reflow: bool = True,
                 joins: bool = True) -> None:
        self.width, self.height = width, height
        self.reflow, self.joins = reflow, joins
        self.rows = [Row(width) for _ in range(height)]
        self.history: List[Row] = []  # what has been scrolled off, oldest first
        self.row = self.column = 0
        self.pending = False  # the last column is written: the next character wraps
        self.paste, self.wraps = False, True
        self.unread = b""  # the beginning of a character or of an escape sequence
        self.faults: List[str] = []
        self.raw = b""  # all there ever was

    # ---- what is written ----

    def feed(self, data: bytes) -> None:
        self.raw += data
        self.unread += data
        try:
            text, self.unread = self.unread.decode(), b""
        except UnicodeDecodeError as error:
            text = self.unread[:error.start].decode()
            self.unread = self.unread[error.start:]
        at = 0
        while at < len(text):
            escape = self.ESCAPE.match(text, at)
            if escape:
                self.obey(*escape.groups())
                at = escape.end()
            elif re.fullmatch(r"\x1b(\[[?0-9;]*)?", text[at:at + 20]):
                self.unread = text[at:].encode() + self.unread
                return
            else:
                self.put(text[at])
                at += 1

    def obey(self, number: str, letter: str) -> None:
        if letter == "J" and number == "":
            self.erase_below()
        elif letter == "H" and number == "":
            self.move(0, 0)
        elif letter == "A":
            self.move(max(0, self.row - int(number or 1)), self.column)
        elif (number, letter) in (("?2004", "h"), ("?2004", "l")):
            self.paste = letter == "h"
        elif (number, letter) in (("?7", "h"), ("?7", "l")):
            self.wraps = letter == "h"
        elif letter != "m":
            self.faults.append("ESC[" + number + letter)

    def move(self, row: int, column: int) -> None:
        self.row, self.column, self.pending = row, column, False

    def erase_below(self) -> None:
        self.rows[self.row].cells[self.column:] = [" "] * (self.width - self.column)
        self.rows[self.row].wrapped = False
        self.rows[self.row + 1:] = [Row(self.width) for _ in self.rows[self.row + 1:]]

    def put(self, char: str) -> None:
        if char == "\r":
            self.move(self.row, 0)
        elif char == "\n":
            self.line_feed()
        elif char == "\t":
            self.move(self.row, min(self.width - 1, self.column // 8 * 8 + 8))
        elif char < " " and char != "\a" or "\x7f" <= char < "\xa0":
            self.faults.append(char)
        elif self.joins_cell(char):
            self.rows[self.row].cells[self.cell_before()] += char
        elif char != "\a":
            self.put_visible(char)

    def cell_before(self) -> int:
        column = self.column if self.pending else max(0, self.column - 1)
        while column > 0 and self.rows[self.row].cells[column] == "":
            column -= 1
        return column

    def joins_cell(self, char: str) -> bool:
        """Does it go into the cell of the character before it?"""
        if columns(char) == 0:
            return True
        before = self.rows[self.row].cells[self.cell_before()]
        flag = len(before) == 1 and is_flag_half(before) and is_flag_half(char)
        skin = "\U0001f3fb" <= char <= "\U0001f3ff"
        return self.joins and (before.endswith("\u200d") or skin or flag)

    def put_visible(self, char: str) -> None:
        width = columns(char)
        if self.pending and self.wraps or self.wraps and self.column + width > self.width:
            self.rows[self.row].wrapped = True
            self.line_feed()
            self.column = 0
        self.column = min(self.column, self.width - width)
        end = self.column + width
        self.rows[self.row].cells[self.column:end] = [char] + [""] * (width - 1)
        self.pending = end == self.width
        self.column = min(self.width - 1, end)

    def line_feed(self) -> None:
        self.pending = False
        self.row += 1
        if self.row == self.height:
            self.row -= 1
            self.history.append(self.rows.pop(0))
            self.rows.append(Row(self.width))

    # ---- the window ----

    def resize(self, width: int, height: int = 0) -> None:
        rows = self.history + self.rows
        at = len(self.history) + self.row
        if self.reflow and width != self.width:
            rows, at = self.reflowed(rows, at, width)
        for row in rows:
            row.cells = (row.cells + [" "] * width)[:width]
        self.width, self.height = width, height or self.height
        self.column = min(self.column, width - 1)
        self.pending = False
        while len(rows) > at + 1 and not "".join(rows[-1].cells).strip():
            rows.pop()
        top = max(0, len(rows) - self.height)
        if self.height >= len(rows) - len(self.history):  # what was scrolled off stays so
            top = max(top, min(len(self.history), at))
        self.history, self.rows = rows[:top], rows[top:]
        self.rows += [Row(width) for _ in range(self.height - len(self.rows))]
        self.row = at - top

    def reflowed(self, rows: List[Row], at: int, width: int):
        """Breaks the logical lines anew; returns the rows, and the cursor's row."""
        result: List[Row] = []
        cursor, cells, offset = 0, [], -1
        for number, row in enumerate(rows):
            if number == at:
                offset = len(cells) + self.column + self.pending
            cells += row.cells
            if row.wrapped and number + 1 < len(rows):
                continue
            while cells and cells[-1] == " ":
                cells.pop()
            first = len(result)
            result += self.broken(cells, width)
            if offset >= 0:
                cursor = first + offset // width
                result += [Row(width) for _ in range(cursor + 1 - len(result))]
                self.column = offset % width
            cells, offset = [], -1
        return result, cursor

    @staticmethod
    def broken(cells: List[str], width: int) -> List[Row]:
        rows = [Row(width)]
        while True:
            end = width
            if len(cells) > width and cells[width] == "":
                end -= 1  # a wide one does not fit
            rows[-1].cells = (cells[:end] + [" "] * width)[:width]
            cells = cells[end:]
            if not cells:
                return rows
            rows[-1].wrapped = True
            rows.append(Row(width))

    # ---- what is seen ----

    def lines(self) -> list:
        """The rows as text; the one with the cursor has a | there."""
        lines = []
        for number, row in enumerate(self.rows):
            cells = row.cells
            if number == self.row:
                column = self.column + self.pending
                cells = cells[:column] + ["|"] + cells[column:]
            lines.append("".join(cells).rstrip())
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def all_lines(self) -> list:
        """All text, with what was scrolled off; a line that had to be broken is whole."""
        lines, text = [], ""
        for row in self.history + self.rows:
            text += "".join(row.cells)
            if not row.wrapped:
                lines.append(text.rstrip())
                text = ""
        return lines
