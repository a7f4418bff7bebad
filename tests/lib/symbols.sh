#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the library shows: symbols.sh SHARED_LIBRARY STATIC_LIBRARY HEADER SYMBOL_LIST
set -u
failed=0
check() {
    if [ "$2" = "$3" ]; then
        echo "ok LIB-1 $1"
    else
        diff <(echo "$2") <(echo "$3")
        echo "not ok LIB-1 $1: they differ"
        failed=1
    fi
}
declared=$(sed -n '/^static/d; s/^[a-z][^(]*[ *]\(b1_[a-z0-9_]*\)(.*/\1/p' "$3" | sort -u)
versioned=$(awk '/^LIBBUS1_/ { v = $1 } /^\tb1_/ { sub(";", ""); print $1 "@@" v }' "$4")
listed=$(sed 's/@@.*//' <<<"$versioned" | sort)
exported=$(nm -D --defined-only "$1" | awk '$2 != "A" { print $3 }' | sort)
check "the symbol list is sorted, by versions, and has each once" "$versioned" \
    "$(sed 's/\(.*\)@@\(.*\)/\2 \1/' <<<"$versioned" | sort -u | sed 's/\(.*\) \(.*\)/\2@@\1/')"
check "what the header declares is what is listed" "$declared" "$listed"
check "what is exported is what is listed, and versioned" "$exported" "$(sort <<<"$versioned")"
check "the soname" "$(objdump -p "$1" | awk '$1 == "SONAME" { print $2 }')" libbus1.so.0
check "needed libraries" "$(objdump -p "$1" | awk '$1 == "NEEDED" { print $2 }')" libc.so.6
check "the static library defines b1_ names only" \
    "$(nm -g --defined-only "$2" | awk 'NF == 3 && $3 !~ /^b1_/ { print $3 }')" ""
exit $failed
