#!/bin/sh
# A launch agent, as ssh: component_agent.sh HOST COMMAND... runs a command on a node of a heterogeneous Slurm job.
# An srun reaches one component of the job, so this finds the component that has the node.
while [ "${1#-}" != "$1" ]; do shift; done # MPICH gives it ssh's flag -x
host=$1
shift
component=0
while [ "$component" -lt "${SLURM_HET_SIZE:-0}" ]; do
    nodes=
    eval "nodes=\${SLURM_JOB_NODELIST_HET_GROUP_$component:-}"
    for node in $(scontrol show hostnames "$nodes"); do
        if [ "$node" = "$host" ]; then
            # It shares the node with other steps, and leaves them the memory.
            exec srun --het-group="$component" --overlap --mem=0 --no-kill --mpi=none -N1 -n1 -w "$host" sh -c "$*"
        fi
    done
    component=$((component + 1))
done
echo "no component of this Slurm job has the node $host" >&2
exit 255
