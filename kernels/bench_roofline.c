#include "bench_roofline.h"
#include <math.h>
#include <string.h>

#define WIDTH  920
#define HEIGHT 560
#define LEFT   70
#define TOP    50
#define AREA_W 660
#define AREA_H 440

/* What is drawn: decades of operations a byte, and of operations a second. */
struct axes {
    double x0, x1, y0, y1; /* log10 */
};

static double at_x(const struct axes *a, double v)
{
    return LEFT + AREA_W * (log10(v) - a->x0) / (a->x1 - a->x0);
}
static double at_y(const struct axes *a, double v)
{
    return TOP + AREA_H * (1 - (log10(v) - a->y0) / (a->y1 - a->y0));
}

static void grid(struct buf *b, const struct axes *a)
{
    for (double d = a->x0; d <= a->x1; d++)
        buf_fmt(
            b,
            "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"#e5e7eb\"/><text x=\"%.1f\" y=\"%d\" "
            "text-anchor=\"middle\">%g</text>\n",
            at_x(a, pow(10, d)), TOP, at_x(a, pow(10, d)), TOP + AREA_H, at_x(a, pow(10, d)),
            TOP + AREA_H + 18, pow(10, d));
    for (double d = a->y0; d <= a->y1; d++)
        buf_fmt(
            b,
            "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#e5e7eb\"/><text x=\"%d\" y=\"%.1f\" "
            "text-anchor=\"end\">%g</text>\n",
            LEFT, at_y(a, pow(10, d)), LEFT + AREA_W, at_y(a, pow(10, d)), LEFT - 6, at_y(a, pow(10, d)) + 4,
            pow(10, d - 9));
    buf_fmt(
        b,
        "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">operations per byte</text>\n<text x=\"16\" y=\"%d\" "
        "text-anchor=\"middle\" transform=\"rotate(-90 16 %d)\">10^9 operations per second</text>\n",
        LEFT + AREA_W / 2, TOP + AREA_H + 40, TOP + AREA_H / 2, TOP + AREA_H / 2);
}

/* The memory's slope up to a peak, and the peak from there on. */
static void roof(struct buf *b, const struct axes *a, double read, double peak, const char *name)
{
    double knee = peak / read, left = pow(10, a->x0);
    if (left * read < pow(10, a->y0)) left = pow(10, a->y0) / read;
    buf_fmt(b,
            "<polyline points=\"%.1f,%.1f %.1f,%.1f %.1f,%.1f\" fill=\"none\" stroke=\"#111827\" "
            "stroke-width=\"1.5\"/>\n<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s %.0f</text>\n",
            at_x(a, left), at_y(a, left * read), at_x(a, knee), at_y(a, peak), at_x(a, pow(10, a->x1)),
            at_y(a, peak), LEFT + AREA_W - 4, at_y(a, peak) - 5, name, peak / 1e9);
}

/* Colours tell types apart, forms ops. */
static void draw_dot(struct buf *b, double x, double y, const struct roof_dot *dot, int kind)
{
    static const char *const colours[] = {"#2563eb", "#dc2626", "#16a34a", "#d97706", "#7c3aed",
                                          "#0891b2", "#db2777", "#65a30d", "#475569", "#92400e"};
    const char *c = colours[(size_t)kind % (sizeof colours / sizeof colours[0])];
    if (!strcmp(dot->r.op, "attn"))
        buf_fmt(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\" fill=\"%s\"", x - 4, y - 4, c);
    else if (!strcmp(dot->r.op, "glu"))
        buf_fmt(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"none\" stroke-width=\"2\" stroke=\"%s\"",
                x, y, c);
    else
        buf_fmt(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\"", x, y, c);
    buf_fmt(b, " opacity=\"0.8\"><title>%s %s, %s, %d rows: %.1f Gop/s, %.1f GB/s</title></%s>\n", dot->r.op,
            dot->r.type, dot->r.shape, dot->r.rows, dot->r.work / dot->seconds / 1e9,
            dot->r.bytes / dot->seconds / 1e9, strcmp(dot->r.op, "attn") ? "circle" : "rect");
}

/* Which of the types that came up so far dot i has. */
static int type_of(const struct roof_dot *dot, int i)
{
    int kind = 0, first = 0;
    while (strcmp(dot[first].r.type, dot[i].r.type)) first++;
    for (int k = 0; k < first; k++) {
        int same = 0;
        while (strcmp(dot[same].r.type, dot[k].r.type)) same++;
        kind += same == k;
    }
    return kind;
}

void bench_roofline(struct buf *b, const struct limits *l, const char *title, const struct roof_dot *dot,
                    int n)
{
    struct axes a = {-1, 3, 9, 9};
    double peak = 0;
    for (int i = 0; i < PEAK_COUNT; i++) peak = l->peak[i] > peak ? l->peak[i] : peak;
    for (int i = 0; i < n; i++) {
        if (dot[i].r.work / dot[i].seconds > peak) peak = dot[i].r.work / dot[i].seconds;
        while (dot[i].r.work / dot[i].r.bytes > pow(10, a.x1) && a.x1 < 6) a.x1++;
    }
    while (pow(10, a.y1) < peak && a.y1 < 16) a.y1++;
    buf_fmt(
        b,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"%d\" y=\"26\" "
        "font-size=\"15\">%s: read %.1f GB/s</text>\n",
        WIDTH, HEIGHT, LEFT, title, l->read / 1e9);
    grid(b, &a);
    if (l->read > 0) {
        roof(b, &a, l->read, l->peak[PEAK_FLOAT], "float");
        if (l->peak[PEAK_BF16] > 1.5 * l->peak[PEAK_FLOAT])
            roof(b, &a, l->read, l->peak[PEAK_BF16], "bfloat16");
        roof(b, &a, l->read, l->peak[PEAK_INT8], "int8");
    }
    for (int i = 0, row = 0; i < n; i++) {
        const struct result *r = &dot[i].r;
        double rate = r->work / dot[i].seconds, x = r->work / r->bytes;
        bool fresh = true;
        if (rate < pow(10, a.y0) || x < pow(10, a.x0))
            continue; /* below the picture: ops that only move data */
        for (int k = 0; k < i && fresh; k++)
            fresh = strcmp(dot[k].r.op, r->op) || strcmp(dot[k].r.type, r->type);
        draw_dot(b, at_x(&a, x), at_y(&a, rate), &dot[i], type_of(dot, i));
        if (!fresh) continue;
        draw_dot(b, LEFT + AREA_W + 24, TOP + 10 + 20 * row, &dot[i], type_of(dot, i));
        buf_fmt(b, "<text x=\"%d\" y=\"%d\">%s %s</text>\n", LEFT + AREA_W + 36, TOP + 14 + 20 * row++, r->op,
                r->type);
    }
    buf_str(b, "</svg>\n");
}
