/* The roofline picture of a run (Williams, Waterman, Patterson 2009): each line of the table is a dot, its
 * arithmetic intensity across and its rate up, under the roof that memory and arithmetic make. */
#pragma once
#include "bench_case.h"
#include "buf.h"

struct roof_dot {
    struct result r;
    double seconds;
};
void bench_roofline(struct buf *svg, const struct limits *l, const char *title, const struct roof_dot *dot,
                    int n);
