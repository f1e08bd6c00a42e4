#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs the fuzzer's programs, as root, where the devices are that ../selftests/vfio uses:
#	run.sh replay BUILT PROGRAMS
#	run.sh fuzz BUILT PROGRAMS SECONDS OUTPUT
# BUILT has what make has built.  replay runs the programs that are in the file PROGRAMS; fuzz
# begins with these, and writes those that reach most to OUTPUT, one that is too slow or
# crashes to OUTPUT-*, and what each process is running to OUTPUT-running-*, which is there
# at the end if it has failed.
built=$2

modprobe -a vgem udmabuf vfio_iommu_type1 vfio-pci dma_buf_test_importer || exit
modprobe -q test_hmm_range	# comes with another series
echo 64 >/proc/sys/vm/nr_hugepages
echo 50 >/sys/module/vfio_pci_core/parameters/revoke_timeout_ms
(
	cd /sys/kernel/debug || exit
	echo 0 | tee fail*/verbose fail_page_alloc/min-order >/dev/null
	echo N | tee fail*/ignore-gfp-wait fail_page_alloc/ignore-gfp-highmem >/dev/null
	# Every second object is kmemleak's, which has a reserve: a failure there tests nothing.
	echo Y >failslab/cache-filter || exit
	for cache in /sys/kernel/slab/*; do
		[ "${cache##*/}" = kmemleak_object ] || echo 1 >"$cache/failslab"
	done
	:
) || exit

[ "$1" = fuzz ] || exec "$built/replay" "$3"
dir=$(mktemp -d)
trap 'rm -r "$dir"' EXIT
mkdir "$dir/corpus" "$dir/seeds" "$dir/found"
"$built/replay" -b "$dir/seeds" "$3" || exit
seconds=$4
output=$5
# Three processes, each with a device of its own, that read each other's corpus.  A call that
# waits for ever keeps libFuzzer's signals off.
set -- -max_len=288 -rss_limit_mb=0 -timeout=120 -handle_segv=0 -handle_bus=0 \
	-max_total_time="$seconds" -artifact_prefix="$output-"
for process in 1 2 3; do
	{
		FUZZ_RUNNING=$output-running-$process \
			timeout -s KILL $((seconds + 300)) \
			"$built/fuzz" "$@" -len_control=0 -reload=20 "$dir/corpus" "$dir/seeds" 2>&1 ||
			echo "status $?" | tee "$dir/failed"
	} | sed -u "s/^/$process: /" &
done
wait
[ ! -e "$dir/failed" ] || exit 1
rm -f "$output"-running-*
# As few inputs as reach all that was reached.
export FUZZ_RUNNING="$output-running-merge"
{
	timeout -s KILL $((seconds + 600)) \
		"$built/fuzz" "$@" -set_cover_merge=1 "$dir/found" "$dir/corpus" "$dir/seeds" 2>&1 ||
		echo "status $?" | tee "$dir/failed"
} | tee "$dir/merge"
# It goes on after a program that ended it.
if [ -e "$dir/failed" ] || grep -q "caused a failure at the previous merge" "$dir/merge"; then
	sed -n "s/.*MERGE-INNER: '\(.*\)' caused a failure.*/\1/p" "$dir/merge" |
		xargs -r env FUZZ_PRINT=1 "$built/fuzz" >>"$output-running-merge" 2>/dev/null
	exit 1
fi
rm -f "$output"-running-*
FUZZ_PRINT=1 "$built/fuzz" "$dir"/found/* 2>/dev/null |
	grep -E "^([a-z_]+( fail [0-9]+)?( thread)?( [0-9]+){5})?$" >"$output"
[ -s "$output" ]
