#include "arrivals.h"
#include <math.h>
#include "draw.h"

/* A gamma variate of the given shape and scale 1: Marsaglia and Tsang, "A simple method for generating gamma
 * variables" (2000); shapes below 1 by their boost U^(1/shape). */
static double gamma_draw(double shape, uint64_t *random)
{
    double boost = shape < 1 ? pow(draw_uniform(random), 1 / shape) : 1;
    double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = draw_normal(random), v = 1 + c * x;
        if (v <= 0) continue;
        v = v * v * v;
        if (log(draw_uniform(random)) < 0.5 * x * x + d - d * v + d * log(v)) return boost * d * v;
    }
}

void arrivals_fill(double *due, int n, double rate, double burstiness, uint64_t *random)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        if (isfinite(rate)) sum += isfinite(burstiness) ? gamma_draw(burstiness, random) : 1;
        due[i] = sum;
    }
    if (sum <= 0) return;
    double stretch = n / rate / sum;
    for (int i = 0; i < n; i++) due[i] *= stretch;
}
