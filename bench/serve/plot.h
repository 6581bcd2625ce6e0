/* A picture of a load as SVG text: how TTFT and ITL are distributed, and when each request ran. */
#pragma once
#include "summary.h"

void plot_svg(struct buf *b, const struct serve_options *o, const char *model, const struct summary *s,
              const struct outcome *out, int n);
void plot_html(struct buf *b, const struct buf *svg); /* a page that holds it */
