#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Plugs 256 MiB of memory into the virtual machine, by QEMU's monitor, uses it for a moment
# and unplugs it: for dma_buf_pressure -x.  Memory is unplugged once the kernel has moved all
# that is in it.  QEMU's monitor (QMP) has to be a virtio port with the name "monitor", and
# its option -m to have slots and maxmem.
dimm='"id":"dimm"'

blocks() {
	echo /sys/devices/system/memory/memory[0-9]*
}

# A command to the monitor, every five seconds, until the blocks are the same as before, or
# other ones: that is its answer.
monitor() {
	for try in $(seq 0 199); do
		[ $((try % 10)) != 0 ] || echo "{\"execute\":\"$2\",\"arguments\":{$3}}" >&3
		[ "$(blocks)" = "$before" ] && now=same || now=other
		[ "$now" != "$1" ] || return 0
		sleep 0.5
	done
	exit 1
}

for port in /sys/class/virtio-ports/*; do
	[ "$(cat "$port/name" 2>/dev/null)" = monitor ] && exec 3<>"/dev/${port##*/}"
done
{ true >&3; } 2>/dev/null || { echo "$0: no virtio port is QEMU's monitor" >&2; exit 1; }
cat <&3 >/dev/null &
trap 'kill $!' EXIT
trap 'exit 1' HUP INT TERM
before=$(blocks)
echo '{"execute":"qmp_capabilities"}' >&3
monitor same object-add '"qom-type":"memory-backend-ram","id":"ram","size":268435456'
monitor other device_add "\"driver\":\"pc-dimm\",\"memdev\":\"ram\",$dimm"
for block in $(blocks); do
	case " $before " in
	*" $block "*) ;;
	*) echo online_movable >"$block/state" ;;
	esac
done 2>/dev/null
sleep 2
monitor same device_del "$dimm"
