/* `inferd bench ops`: each op's rate over shapes, types, rows and instruction levels, beside this machine's
 * limits and the error against the scalar reference. argv[0] is "ops"; returns an exit code. */
#pragma once
int bench_ops_main(int argc, char **argv);
