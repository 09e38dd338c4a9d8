#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The random part of scripts/soak: random layers on a filesystem of its own, then rvl-random on the mount of them.
#
#   soak.sh [options]       (as root)
#     --fs reverlay|kernel  what is tested (reverlay)
#     --program FILE        the server (build/reverlay)
#     --tester FILE         rvl-random (build/tests/random/rvl-random)
#     --on DIR|tmpfs|ext4|xfs|btrfs  where layers and oracle lie: a directory, or a new filesystem (tmpfs)
#     --layers N            lower layers (3)
#     --seed N, --runs N    seed of the first run, number of runs with a seed one higher each (1, 1)
#     --ops N               operations of a run, over all threads (250000)
#     --options LIST        more mount options
#   All others go to rvl-random: --threads N, --drop-caches, --remount-every N, --shrink, --verbose, --replay FILE …
set -eu
umask 022
# In a mount namespace of its own: one that is made meanwhile would keep copies of our mounts busy.
if [ -z "${RVL_SOAK_NS:-}" ]; then
	RVL_SOAK_NS=1 exec unshare -m --propagation private "$0" "$@"
fi
top=$(cd "$(dirname "$0")/../.." && pwd)
fs=reverlay program=$top/build/reverlay tester=$top/build/tests/random/rvl-random on=tmpfs layers=3 seed=1 runs=1
ops=250000 options="" threads=1 pass=""
while [ $# -gt 0 ]; do
	case $1 in
	--fs) fs=$2; shift ;;
	--program) program=$2; shift ;;
	--tester) tester=$2; shift ;;
	--on) on=$2; shift ;;
	--layers) layers=$2; shift ;;
	--seed) seed=$2; shift ;;
	--runs) runs=$2; shift ;;
	--ops) ops=$2; shift ;;
	--options) options=,$2; shift ;;
	--threads) threads=$2; shift ;;
	*) pass="$pass $1" ;;
	esac
	shift
done

dir=$(mktemp -d "${TMPDIR:-/tmp}/rvl-soak.XXXXXX")
base=$dir/fs
mkdir "$base"
# shellcheck disable=SC2329
clean_up() {
	cd /
	umount "$base/mnt" 2>/dev/null || umount -l "$base/mnt" 2>/dev/null || true
	umount "$base" 2>/dev/null || umount -l "$base" 2>/dev/null || true
	[ -n "${keep:-}" ] || rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

case $on in
tmpfs) mount -t tmpfs -o size=4g,mode=755 rvl-soak "$base" ;;
ext4 | xfs | btrfs)
	truncate -s 8G "$dir/image"
	"mkfs.$on" -q "$dir/image"
	mount -o loop "$dir/image" "$base"
	;;
*) mkdir -p "$on"; base=$(mktemp -d "$on/rvl-soak.XXXXXX") ;;
esac

lowers="" lower_args="" i=1
while [ "$i" -le "$layers" ]; do
	lowers="${lowers:+$lowers:}$base/low$i"
	lower_args="$lower_args --lower $base/low$i"
	i=$((i + 1))
done

if [ "$fs" = kernel ]; then
	mount_cmd="mount -t overlay -o lowerdir=$lowers,upperdir=$base/upper,workdir=$base/work,index=on,redirect_dir=on,xino=on,metacopy=off$options rvl $base/mnt"
	pass="$pass --kernel"
else
	mount_cmd="$program -o lowerdir=$lowers,upperdir=$base/upper,workdir=$base/work$options $base/mnt"
fi
# A mount that is still in use for a moment (a server that closes) is tried again.
umount_cmd="i=0; until umount $base/mnt 2>/dev/null; do grep -q ' $base/mnt ' /proc/self/mountinfo || exit 0; i=\$((i+1)); [ \$i -lt 20 ] || exit 1; sleep 0.1; done"
reset_cmd="rm -rf $base/upper $base/work && mkdir $base/upper $base/work && chmod 777 $base/upper"

# What was used and unmounted is clean.
check_index() {
	[ "$fs" != kernel ] || return 0
	# shellcheck disable=SC2046  # the program may have a prefix, which is for this one too
	sh -c "$umount_cmd" && $(dirname "$program")/reverlayctl check -q -v \
		-o "lowerdir=$lowers,upperdir=$base/upper,workdir=$base/work$options"
}

each=$((ops / threads)) failed=0 run=0
while [ "$run" -lt "$runs" ]; do
	s=$((seed + run))
	rm -rf "${base:?}"/low* "${base:?}/mnt" "${base:?}/oracle"
	mkdir "$base/mnt" "$base/oracle"
	i=1
	while [ "$i" -le "$layers" ]; do
		mkdir "$base/low$i"
		whiteouts=--whiteouts
		[ "$i" -lt "$layers" ] || whiteouts=
		"$tester" --populate "$base/low$i" --seed $((s * 1000 + i)) --threads "$threads" $whiteouts
		i=$((i + 1))
	done
	sh -c "$reset_cmd"
	# shellcheck disable=SC2086
	if ! "$tester" --mount "$mount_cmd" --umount "$umount_cmd" --reset "umount -l $base/mnt 2>/dev/null; $reset_cmd" \
		--mnt "$base/mnt" --oracle "$base/oracle" --upper "$base/upper" $lower_args --seed "$s" \
		--ops "$each" --threads "$threads" $pass; then
		failed=$((failed + 1))
		echo "soak: seed $s failed: $0 --fs $fs --on $on --layers $layers --seed $s --ops $ops --threads $threads$pass"
		umount "$base/mnt" 2>/dev/null || umount -l "$base/mnt" 2>/dev/null || true
	elif ! check_index; then
		failed=$((failed + 1))
		echo "soak: seed $s: reverlayctl check finds something after it"
	fi
	run=$((run + 1))
done
echo "soak: $runs runs, $failed failed"
[ "$failed" = 0 ]
