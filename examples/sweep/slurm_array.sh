#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# A sweep as an array of Slurm jobs, a shard each, and one job after them that merges:
#
#   examples/sweep/slurm_array.sh OUT SHARDS OPTION... TRACE...
#
# OUT is a folder that all nodes see. TDP names the program, `tdp` in the PATH otherwise.
set -eu
[ $# -ge 3 ] || { echo "usage: $0 OUT SHARDS OPTION... TRACE..." >&2; exit 2; }
out=$1
shards=$2
shift 2
tdp=${TDP:-tdp}
mkdir -p "$out"

# The words of the command, quoted for the shell that runs the job.
words=
for word in "$@"; do
  words="$words '$(printf %s "$word" | sed "s/'/'\\\\''/g")'"
done

# A shard that was killed goes on where it stopped when its job is submitted again (--resume).
array=$(sbatch --parsable --array="1-$shards" --job-name=tdp-sweep \
  --output="$out/shard_%a.log" --wrap \
  "'$tdp' sweep --resume --shard \$SLURM_ARRAY_TASK_ID/$shards \
    --csv '$out'/shard_\$SLURM_ARRAY_TASK_ID.csv $words")
sbatch --parsable --dependency="afterok:$array" --job-name=tdp-merge \
  --output="$out/merge.log" --wrap \
  "'$tdp' sweep --merge '$out'/shard_*.csv > '$out/sweep.csv'"
