#!/bin/sh
# A right chat server that a shell starts and waits for: test.py must find no fault with it.
#     from_script.sh PORT
cd "$(dirname "$0")" || exit 1
echo "starting on port $1"
python3 with_selectors.py "$1"
status=$?
echo "ended with $status"
exit $status
