#include "plot.h"
#include <math.h>
#include <string.h>

#define WIDTH    900
#define LEFT     60
#define PANEL_W  380
#define PANEL_H  180
#define BINS     40
#define TIME_TOP 320
#define TIME_H   420

static void text(struct buf *b, double x, double y, const char *anchor, const char *s)
{
    buf_fmt(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    for (; *s; s++) {
        if (*s == '<')
            buf_str(b, "&lt;");
        else if (*s == '&')
            buf_str(b, "&amp;");
        else if ((unsigned char)*s >= ' ')
            buf_chr(b, *s);
    }
    buf_str(b, "</text>\n");
}

static void number(struct buf *b, double x, double y, const char *anchor, double v, const char *unit)
{
    struct buf s = {0};
    buf_fmt(&s, "%.4g%s", v, unit);
    text(b, x, y, anchor, s.failed ? "" : s.data);
    buf_free(&s);
}

static void bar(struct buf *b, double x, double y, double w, double h, const char *colour)
{
    buf_fmt(b, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\"/>\n", x, y, w, h,
            colour);
}

/* Values beyond `end` (ms) are counted in the last bin. */
static void count_bins(int *bin /* [BINS] */, enum metric m, const struct outcome *out, int n, double end)
{
    for (int i = 0; i < n; i++) {
        if (!out[i].success) continue;
        const double *v = m == METRIC_ITL ? out[i].itl : &out[i].ttft;
        for (int k = 0; k < (m == METRIC_ITL ? out[i].n_itl : 1); k++) {
            double at = v[k] * 1e3 / end * BINS;
            bin[at < BINS - 1 ? (int)at : BINS - 1]++;
        }
    }
}

static void histogram(struct buf *b, double left, enum metric m, const struct summary *s,
                      const struct outcome *out, int n)
{
    const struct distribution *d = &s->metric[m];
    int bin[BINS] = {0}, most = 1;
    double end = d->mean + 3 * d->std, top = 90, step = (double)PANEL_W / BINS;
    if (!(end > 1e-6)) end = 1;
    count_bins(bin, m, out, n, end);
    for (int i = 0; i < BINS; i++)
        if (bin[i] > most) most = bin[i];
    struct buf title = {0};
    buf_fmt(&title, "%s: mean %.4g ms, median %.4g ms", metric_names[m].title, d->mean, d->median);
    text(b, left, top - 12, "start", title.failed ? "" : title.data);
    buf_free(&title);
    for (int i = 0; i < BINS; i++) {
        double h = (double)bin[i] / most * PANEL_H;
        if (bin[i]) bar(b, left + i * step, top + PANEL_H - h, step - 1, h, "#4878a8");
    }
    bar(b, left, top + PANEL_H, PANEL_W, 1, "#444");
    text(b, left, top + PANEL_H + 15, "middle", "0");
    number(b, left + PANEL_W / 2.0, top + PANEL_H + 15, "middle", end / 2, " ms");
    number(b, left + PANEL_W, top + PANEL_H + 15, "end", end, " ms or more");
}

static const char *gap_colour(double gap, const double *threshold /* [2] ms */)
{
    return gap * 1e3 < threshold[0] ? "#3a9a50" : gap * 1e3 < threshold[1] ? "#e09030" : "#c83c3c";
}

/* Waiting for the first token grey, then the gaps; neighbours of one colour are drawn as one. */
static void request_line(struct buf *b, const struct outcome *x, double y, double h, double first,
                         double scale, const double *threshold)
{
    double at = LEFT + (x->start - first) * scale, w = x->ttft * scale;
    bar(b, at, y, w, h, "#bbb");
    at += w;
    for (int k = 0; k < x->n_itl;) {
        const char *colour = gap_colour(x->itl[k], threshold);
        for (w = 0; k < x->n_itl && gap_colour(x->itl[k], threshold) == colour; k++) w += x->itl[k] * scale;
        bar(b, at, y, w, h, colour);
        at += w;
    }
}

static void timeline(struct buf *b, const struct serve_options *o, const struct outcome *out, int n)
{
    double first = INFINITY, last = 0;
    for (int i = 0; i < n; i++) {
        if (!out[i].success) continue;
        first = fmin(first, out[i].start);
        last = fmax(last, out[i].start + out[i].latency);
    }
    double span = last > first ? last - first : 1, row = fmin((double)TIME_H / n, 14);
    struct buf title = {0};
    buf_fmt(&title,
            "Requests over time: grey waits for the first token; gaps below %g ms green, below %g ms orange, "
            "else red",
            o->itl_threshold[0], o->itl_threshold[1]);
    text(b, LEFT, TIME_TOP - 8, "start", title.failed ? "" : title.data);
    buf_free(&title);
    for (int i = 0; i < n; i++)
        if (out[i].success)
            request_line(b, &out[i], TIME_TOP + i * row, row * 0.85, first, (WIDTH - 2 * LEFT) / span,
                         o->itl_threshold);
    double bottom = TIME_TOP + n * row;
    bar(b, LEFT, bottom, WIDTH - 2 * LEFT, 1, "#444");
    for (int i = 0; i <= 4; i++)
        number(b, LEFT + i * (WIDTH - 2 * LEFT) / 4.0, bottom + 15, "middle", span * i / 4, " s");
}

void plot_svg(struct buf *b, const struct serve_options *o, const char *model, const struct summary *s,
              const struct outcome *out, int n)
{
    struct buf title = {0};
    buf_fmt(b,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
            "font-size=\"12\">\n",
            WIDTH, TIME_TOP + TIME_H + 40);
    buf_str(b, "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n");
    buf_fmt(&title, "%s: %d requests (%d failed), %.2f req/s, %.2f output tok/s", model, n, s->failed,
            s->request_rate, s->output_rate);
    text(b, LEFT, 30, "start", title.failed ? "" : title.data);
    buf_free(&title);
    histogram(b, LEFT, METRIC_TTFT, s, out, n);
    histogram(b, LEFT + PANEL_W + 40, METRIC_ITL, s, out, n);
    timeline(b, o, out, n);
    buf_str(b, "</svg>\n");
}

void plot_html(struct buf *b, const struct buf *svg)
{
    buf_str(b, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Load "
               "timeline</title></head>\n<body>\n");
    buf_add(b, svg->data, svg->len);
    buf_str(b, "</body></html>\n");
}
