#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Compile the public header by itself: header.sh INCLUDE_DIR COMPILER [FLAG ...]
set -u
dir=$(dirname "$0") inc=$1
shift
failed=0
try() {
    name=$1
    shift
    if out=$("$@" 2>&1) && [ -z "$out" ]; then
        echo "ok LIB-1 $name"
    else
        printf '%s\n' "$out"
        echo "not ok LIB-1 $name: the compiler complains"
        failed=1
    fi
}
all="-Wall -Wextra -Wpedantic -Werror -fsyntax-only -I$inc"
found=
for cc in gcc clang; do
    command -v $cc >/dev/null || continue
    for std in c99 c11 gnu11; do
        # shellcheck disable=SC2086 # words
        try "the header in $std ($cc)" $cc -std=$std $all -Wstrict-prototypes -Wmissing-prototypes "$dir/header.c"
        found=1
    done
done
for cc in g++ clang++; do
    command -v $cc >/dev/null || continue
    for std in c++11 c++20; do
        # shellcheck disable=SC2086
        try "the header in $std ($cc)" $cc -std=$std $all "$dir/header.cc"
        found=1
    done
done
[ "$found" ] || echo "skip LIB-1 the header: no compiler"
exit $failed
