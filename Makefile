#   make             build the server and the client of final/: build/chatsrv, build/chatcl
#   make run         build and start the server, on port 3100  (ARGS='-t 60 3200')
#   make chat        build and start the client                (ARGS='localhost 3200')
#   make step 3      build step 3 as build/chatsrv             (or: make step N=3)
#   make Test3       build step 3, then run Test3 on it
#   make diff 3      what step 3 adds to step 2                (7: what final/ adds to step 6)
#   make start 3     begin your own step 3, mine/3-close.c
#   make mine 3      build that file and test it as far as stage 3 goes
#   make compare 3   what differs between your step 3 and ours
#   make examples    build the programs of notes/examples/ into build/examples/
#   make notes       write the diffs of the steps into the chapters of notes/
#   make test        run all tests that need no more than cc, make and python3
#   make check       run these and all others, as CI does      (ONLY=lint: those named so)
#   make mutants     do the tests catch each of the faults in tests/mutants/?
#   make soak        play a chat under bad conditions          (MINUTES=10)
#   make fuzz        give the parsers what nobody thought of
#   make bench       measure the server                        (QUICK=1; PEER='CMD {port}')
#   make submit P2=DIR   copy final/ to DIR, build that copy and test it   (FORCE=1: overwrite)
#   make clean       remove build/
#   make help        this text
#
# With BACKEND=kqueue, each of them takes the kqueue half of evloop.h. On Linux it runs on the
# stand-in of tests/kqueue/. To use a library instead:
#     make CPPFLAGS='-DEVLOOP_KQUEUE -I/usr/include/kqueue' LDLIBS=-lkqueue

# For GNU make (3.81 and later) and BSD make alike.
CC = cc
PYTHON = python3
CFLAGS = -O2 -g
STRICT = -std=c11 -Wall -Wextra -Wpedantic -Wshadow -Wconversion
SYSTEM = -D_DEFAULT_SOURCE -D_DARWIN_C_SOURCE

# The paths hold in final/, steps/, tests/ and notes/: in one of them all is compiled.
BACKEND = native
MINUTES = 10
CPPFLAGS_kqueue = -DEVLOOP_KQUEUE -isystem ../tests/kqueue
LDLIBS_kqueue = ../tests/kqueue/kqueue.c
COMPILE = $(CC) $(STRICT) $(SYSTEM) $(CPPFLAGS) $(CPPFLAGS_$(BACKEND)) $(CFLAGS)
LINK = $(LDFLAGS) $(LDLIBS) $(LDLIBS_$(BACKEND))

# What was asked for: GNU make knows the first of the two, BSD make the second.
GOALS = $(MAKECMDGOALS) $(.TARGETS)

# Sets n to the number that stands behind the verb.
NUMBER = n=; for goal in $(N) $(GOALS); do case $$goal in [0-9]*) n=$$goal;; esac; done

all: build/chatsrv build/chatcl

# Always anew: the last build/chatsrv may be a step's, or another backend's.
build/chatsrv build/chatcl:
	@mkdir -p build
	@rm -f $@
	@cd final && $(MAKE) B=../build COMPILE='$(COMPILE)' LINK='$(LINK)' ../$@

step:
	@$(NUMBER); set -- steps/$$n-*.c; mkdir -p build; rm -f build/chatsrv; \
	if [ ! -f "$$1" ]; then echo "make step N: N is a number from 1 to 6" >&2; exit 2; fi; \
	cd steps && set -x && $(COMPILE) -o ../build/chatsrv "$${1#steps/}" $(LINK)

1 2 3 4 5 6 7:
	@case "$(GOALS)" in *step*|*diff*|*start*|*mine*|*compare*) ;; \
	*) echo "make step $@, or make diff $@?" >&2; exit 2;; esac

Test1 Test2 Test3 Test4 Test5 Test6:
	@n=$@; $(MAKE) step N=$${n#Test}
	$(PYTHON) tests/test.py $@

diff:
	@$(NUMBER); case $$n in \
	1) set -- /dev/null steps/1-*.c;; \
	[2-6]) set -- steps/$$((n - 1))-*.c steps/$$n-*.c;; \
	7) set -- steps/6-*.c final/chatsrv.c;; \
	*) echo "make diff N: N is a number from 1 to 7" >&2; exit 2;; \
	esac; \
	diff -u "$$1" "$$2" | if [ -t 1 ]; then e=$$(printf '\033['); sed \
	"s/^-.*/$${e}31m&$${e}m/; s/^+.*/$${e}32m&$${e}m/; s/^@.*/$${e}36m&$${e}m/"; else cat; fi

start mine compare:
	@$(NUMBER); COMPILE='$(COMPILE)' LINK='$(LINK)' $(PYTHON) tests/mine.py $@ "$$n"

run: build/chatsrv
	build/chatsrv $(ARGS)

chat: build/chatcl
	build/chatcl $(ARGS)

examples:
	@mkdir -p build/examples
	@cd notes && for c in examples/*.c; do (set -x; \
	$(COMPILE) -I../final -o "../build/$${c%.c}" $$c $(LINK)) || exit 1; done

notes:
	$(PYTHON) notes/embed.py

test:
	@MAKE='$(MAKE)' $(PYTHON) tests/runner.py test $(ONLY)

check:
	@MAKE='$(MAKE)' $(PYTHON) tests/runner.py check $(ONLY)

mutants:
	@MAKE='$(MAKE)' $(PYTHON) tests/mutants/mutants.py

soak: all
	$(PYTHON) tests/system/soak_test.py --minutes $(MINUTES) --server 'build/chatsrv {options} {port}'

fuzz:
	@MAKE='$(MAKE)' $(PYTHON) tests/fuzz/fuzz.py

bench:
	@MAKE='$(MAKE)' QUICK='$(QUICK)' PEER='$(PEER)' $(PYTHON) tests/load/bench.py

submit:
	@MAKE='$(MAKE)' FORCE='$(FORCE)' $(PYTHON) tests/submit.py '$(P2)'

# For tests/runner.py: how to compile, and what follows the sources.
flags:
	@echo '$(COMPILE)'; echo '$(LINK)'

clean:
	rm -rf build

help:
	@sed -n 's/^#   make/make/p' Makefile

.PHONY: all build/chatsrv build/chatcl step 1 2 3 4 5 6 7 Test1 Test2 Test3 Test4 Test5 Test6 \
	diff start mine compare run chat examples notes test check mutants soak fuzz bench submit flags clean help
