#   make             build the server and the client of final/: build/chatsrv, build/chatcl
#   make run         build and start the server, on port 3100  (ARGS='-t 60 3200')
#   make run 3       build step 3 and start it
#   make chat        build and start the client                (ARGS='localhost 3200')
#   make step 3      build step 3 as build/chatsrv             (or: make step N=3)
#   make Test3       build step 3, then run Test3 on it        (or: make Test 3)
#   make diff 3      what step 3 adds to step 2                (7: what final/ adds to step 6)
#   make start 3     begin your own step 3, mine/3-close.c
#   make mine 3      build that file and test it as far as stage 3 goes
#   make compare 3   what differs between your step 3 and ours
#   make examples    build the programs of notes/examples/ into build/examples/
#   make notes       write the diffs of the steps into the chapters of notes/
#   make transcripts run the commands in the notes, and put their output there
#   make site        make web pages of the notes and the steps in build/site/
#   make test        run all tests that need no more than cc, make and python3
#   make check       run these and all others, as CI does      (ONLY=lint: those named so)
#   make mutants     do the tests catch each of the faults in tests/mutants/?
#   make soak        play a chat under bad conditions          (MINUTES=10)
#   make fuzz        give the parsers what nobody thought of
#   make bench       measure the server                        (QUICK=1; PEER='CMD {port}')
#   make submit P2=DIR   copy final/ to DIR, build that copy and test it   (FORCE=1: overwrite)
#   make install     install the programs and their manual pages  (PREFIX=/usr/local, DESTDIR=)
#   make uninstall   remove them again
#   make clean       remove build/
#   make help        this text
#
# BACKEND=kqueue, given to any of them or set in the environment, takes the kqueue half of
# evloop.h. On Linux it runs on the stand-in of tests/kqueue/. To use a library instead:
#     make CPPFLAGS='-DEVLOOP_KQUEUE -I/usr/include/kqueue' LDLIBS=-lkqueue

# For GNU make (3.81 and later) and BSD make alike.
CC = cc
PYTHON = python3
CPPFLAGS =
CFLAGS = -O2 -g
STRICT = -std=c11 -Wall -Wextra -Wpedantic -Wshadow -Wconversion
SYSTEM = -D_DEFAULT_SOURCE -D_DARWIN_C_SOURCE

# The compiler is called in final/, steps/, tests/ and notes/: paths in these flags hold in each.
BACKEND ?= native
MINUTES = 10
CPPFLAGS_kqueue = -DEVLOOP_KQUEUE -isystem ../tests/kqueue
LDLIBS_kqueue = ../tests/kqueue/kqueue.c
COMPILE = $(CC) $(STRICT) $(SYSTEM) $(CPPFLAGS) $(CPPFLAGS_$(BACKEND)) $(CFLAGS)
LINK = $(LDFLAGS) $(LDLIBS) $(LDLIBS_$(BACKEND))

# Make itself runs a line that calls it by its own variable, even when -n has it run nothing.
SUBMAKE = $(MAKE)

# The programs of final/ are built in build/final/, each of the steps in build/steps/, and the one
# that was asked for last is copied to build/chatsrv. What is there already is not built again, if
# it was built by the same command: that is kept beside it.
#
#   same FILE TEXT         is this what the file says?
#   put PROGRAM FILE       copies it, unless it is there already
#   one SOURCE PROGRAM     compiles a program of one file, unless neither that file, nor a header
#                          beside it, nor the command has changed
#   final [VERB]           builds both programs of final/
FUNCTIONS = \
	same() { [ -f "$$1" ] && [ "$$(cat "$$1")" = "$$2" ]; }; \
	put() { cmp -s "$$1" "$$2" || { rm -f "$$2" && cp "$$1" "$$2"; }; }; \
	one() { how=$$(printf '%s\n' '$(COMPILE) $(LINK)'; cksum "$$1" "$${1%/*}"/*.h); \
		if [ -f "$$2" ] && same "$$2.how" "$$how"; then return; fi; \
		mkdir -p "$${2%/*}"; rm -f "$$2"; \
		(cd "$${1%%/*}" && set -x && $(COMPILE) -o "../$$2" "$${1\#*/}" $(LINK)) && \
		printf '%s\n' "$$how" >"$$2.how"; }; \
	final() { how='$(COMPILE) $(LINK)'; same build/final/how "$$how" || { rm -rf build/final && \
		mkdir build/final && printf '%s\n' "$$how" >build/final/how; } || return; cd final; \
		set -- B=../build/final COMPILE='$(COMPILE)' LINK='$(LINK)' "$$@"; \
		MAKEFLAGS= $(SUBMAKE) -f ../final/Makefile -q "$$@" >/dev/null || \
			MAKEFLAGS= $(SUBMAKE) -f ../final/Makefile "$$@"; \
		set -- $$?; cd ..; return $$1; }

# What was asked for: GNU make knows the first of the two, BSD make the second.
GOALS = $(MAKECMDGOALS) $(.TARGETS)

# Sets n to the number that stands behind the verb, one of these.
NUMBERED = step run Test diff start mine compare
NUMBER = n=; for goal in $(N) $(GOALS); do case $$goal in [0-9]*) [ -z "$$n" ] || \
	{ echo "make: one number at a time, not $$n and $$goal" >&2; exit 2; }; n=$$goal;; esac; done

# Builds step n as build/chatsrv.
STEP = set -- steps/$$n-*.c; [ -f "$$1" ] || \
	{ echo "make $@ N: N is a number from 1 to 6" >&2; exit 2; }; \
	$(FUNCTIONS); step=$${1%.c}; one "$$1" "build/$$step" || { rm -f build/chatsrv; exit 1; }; \
	put "build/$$step" build/chatsrv

FINAL = $(FUNCTIONS); final all || { rm -f build/chatsrv build/chatcl; exit 1; }

all: build/chatsrv build/chatcl

build/chatsrv build/chatcl: programs
	@$(FUNCTIONS); put build/final/$(@F) $@

programs: ready
	@$(FINAL)

# One number, and a verb that takes one.
numbers:
	@$(NUMBER); for goal in $(GOALS); do case ' $(NUMBERED) ' in *" $$goal "*) n=;; esac; done; \
	[ -z "$$n" ] || { echo "make: $$n goes with one of these: $(NUMBERED)" >&2; exit 2; }

1 2 3 4 5 6 7: numbers
	@:

# A place to build in, and a backend that there is.
ready: numbers
	@case '$(BACKEND)' in native|kqueue) ;; *) \
	echo "make: BACKEND is native or kqueue, not $(BACKEND)" >&2; exit 2;; esac; \
	mkdir -p build && [ -w build ] || \
	{ echo "make: nothing can be built here: build/ cannot be written" >&2; exit 2; }

step: ready
	@$(NUMBER); $(STEP)

Test: ready
	@$(NUMBER); $(STEP); $(PYTHON) tests/test.py Test$$n

Test1 Test2 Test3 Test4 Test5 Test6: ready
	@n=$@; n=$${n#Test}; $(STEP); $(PYTHON) tests/test.py $@

run: ready
	@$(NUMBER); if [ -n "$$n" ]; then $(STEP); \
	else $(FINAL); put build/final/chatsrv build/chatsrv; fi; \
	set -x; exec build/chatsrv $(ARGS)

chat: build/chatcl
	build/chatcl $(ARGS)

diff: numbers
	@$(NUMBER); case $$n in \
	1) set -- /dev/null steps/1-*.c;; \
	[2-6]) set -- steps/$$((n - 1))-*.c steps/$$n-*.c;; \
	7) set -- steps/6-*.c final/chatsrv.c;; \
	*) echo "make diff N: N is a number from 1 to 7" >&2; exit 2;; \
	esac; \
	diff -u "$$1" "$$2" | if [ -t 1 ]; then e=$$(printf '\033['); sed \
	"s/^-.*/$${e}31m&$${e}m/; s/^+.*/$${e}32m&$${e}m/; s/^@.*/$${e}36m&$${e}m/"; else cat; fi

start mine compare: ready
	@$(NUMBER); COMPILE='$(COMPILE)' LINK='$(LINK)' $(PYTHON) tests/mine.py $@ "$$n"

examples: ready
	@$(FUNCTIONS); for c in notes/examples/*.c; do \
	p=build/$${c#notes/}; one "$$c" "$${p%.c}" || exit; done

install uninstall: ready
	@$(FUNCTIONS); final $@

site: ready
	$(PYTHON) notes/site/site.py

notes: numbers
	$(PYTHON) notes/embed.py

transcripts: ready
	$(PYTHON) notes/transcripts.py write $(ONLY)

test: ready
	@MAKE='$(SUBMAKE)' $(PYTHON) tests/runner.py test $(ONLY)

check: ready
	@MAKE='$(SUBMAKE)' $(PYTHON) tests/runner.py check $(ONLY)

mutants: ready
	@MAKE='$(SUBMAKE)' $(PYTHON) tests/mutants/mutants.py

soak: all
	$(PYTHON) tests/system/soak_test.py --minutes $(MINUTES) \
	--server 'build/chatsrv {options} {port}'

fuzz: ready
	@MAKE='$(SUBMAKE)' $(PYTHON) tests/fuzz/fuzz.py

bench: ready
	@MAKE='$(SUBMAKE)' QUICK='$(QUICK)' PEER='$(PEER)' $(PYTHON) tests/load/bench.py

submit: ready
	@MAKE='$(SUBMAKE)' FORCE='$(FORCE)' $(PYTHON) tests/submit.py "$$P2"

# For tests/runner.py: how to compile, and what follows the sources.
flags:
	@echo '$(COMPILE)'; echo '$(LINK)'

clean: numbers
	rm -rf build

help: numbers
	@sed -n 's/^#   make/make/p' Makefile

.PHONY: all build/chatsrv build/chatcl programs numbers 1 2 3 4 5 6 7 ready step \
	Test Test1 Test2 Test3 Test4 Test5 Test6 run chat diff start mine compare \
	examples install uninstall notes transcripts site test check mutants soak fuzz bench \
	submit flags clean help
