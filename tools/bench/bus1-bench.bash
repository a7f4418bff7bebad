# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for bus1-bench(1)

_bus1_bench()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local works='sendrecv roundtrip roundtrip-2cpu roundtrip-apart roundtrip-hog oneway sendrecv-touch
		roundtrip-touch large large-touch life pass fanout fanin scale death flooded inflight'

	COMPREPLY=()
	case $prev in
	--filter)
		# The last of a list separated by commas.
		local done=
		[[ $cur == *,* ]] && done=${cur%,*},
		COMPREPLY=($(compgen -P "$done" -W "$works" -- "${cur##*,}"))
		;;
	--clock)
		COMPREPLY=($(compgen -W 'count wall' -- "$cur"))
		;;
	--save)
		compopt -o filenames
		COMPREPLY=($(compgen -f -- "$cur"))
		;;
	--rounds | --loop)
		;;
	*)
		COMPREPLY=($(compgen -W '--short --touch --filter --clock --rounds --json --save --check --loop --help' -- "$cur"))
		;;
	esac
}
complete -F _bus1_bench bus1-bench
