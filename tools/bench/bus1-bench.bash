# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for bus1-bench(1)

_bus1_bench()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local works='sendrecv roundtrip sendrecv-touch roundtrip-touch large large-touch life pass fanout scale death flooded'

	COMPREPLY=()
	case $prev in
	--filter)
		# The last of a list separated by commas.
		local done=
		[[ $cur == *,* ]] && done=${cur%,*},
		COMPREPLY=($(compgen -P "$done" -W "$works" -- "${cur##*,}"))
		;;
	--rounds | --loop)
		;;
	*)
		COMPREPLY=($(compgen -W '--short --touch --filter --rounds --json --check --loop --help' -- "$cur"))
		;;
	esac
}
complete -F _bus1_bench bus1-bench
