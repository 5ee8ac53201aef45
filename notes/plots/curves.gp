# curves.gp - draws one figure; draw.py calls it with these variables:
#   data             a table, first column x, the others the lines; first row their names
#   columns          how many columns it has
#   styles           for each line the number of its line type, below
#   output           the SVG file
#   title, xlabel, ylabel
# Both axes are logarithmic: what grows in proportion is a straight line that rises.

set terminal svg size 760,460 dynamic font "sans-serif,13" background "#ffffff"
set output output
set datafile separator "\t"
set datafile missing "?"
set title title
set xlabel xlabel
set ylabel ylabel
set logscale xy
set format x "%.0f"
set format y "%g"
set grid xtics ytics linecolor "#dddddd"
set key outside right top

# Okabe and Ito's colours: to be told apart by everybody.
set linetype 1 linecolor "#0072b2" linewidth 2 pointtype 7
set linetype 2 linecolor "#e69f00" linewidth 2 pointtype 5
set linetype 3 linecolor "#000000" linewidth 2 pointtype 9
set linetype 4 linecolor "#d55e00" linewidth 2 pointtype 11
set linetype 5 linecolor "#009e73" linewidth 2 pointtype 13
set linetype 6 linecolor "#cc79a7" linewidth 2 pointtype 4
set linetype 7 linecolor "#56b4e9" linewidth 2 pointtype 8

plot for [column = 2:columns] data using 1:column with linespoints \
    linetype int(word(styles, column - 1)) pointsize 0.6 title columnheader(column)
