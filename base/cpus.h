/* How many CPUs a cgroup's quota leaves, v1 or v2, for pool_cpus and its test. */
#pragma once

/* root: where cgroups are mounted; self: the file that says which one the process is in. A large number
 * without quota. */
int cpus_quota(const char *root, const char *self);
