/* When requests are sent: gaps from a gamma distribution, stretched so that the last one comes at n / rate.
 */
#pragma once
#include <stdint.h>

/* due[n]: seconds after the start, ascending. rate in requests per second, INFINITY: all at 0. burstiness is
 * the shape of the gaps: 1 is a Poisson process, INFINITY even spacing. */
void arrivals_fill(double *due, int n, double rate, double burstiness, uint64_t *random);
