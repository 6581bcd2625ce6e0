#include "split.h"

static int refuse(int size, const char *what, int n, struct err *e)
{
    return err_param(e, ERR_UNSUPPORTED, "tensor-parallel-size",
                     "--tensor-parallel-size %d: the model's %d %s cannot be divided by it", size, n, what);
}

static struct share cut(int n, int rank, int size) { return (struct share){n, n / size * rank, n / size}; }

static struct share times(struct share s, int unit)
{
    return (struct share){s.n * unit, s.at * unit, s.take * unit};
}

/* Where there are more ranks than KV heads, size / n_kv_head neighbours hold the same one. */
static struct share cut_kv(int n, int rank, int size)
{
    return size <= n ? cut(n, rank, size) : (struct share){n, rank / (size / n), 1};
}

int split_arch(const struct arch *whole, int rank, int size, struct split *out, struct arch *part,
               struct err *e)
{
    const struct arch *a = whole;
    if (a->n_head % size) return refuse(size, "heads", a->n_head, e);
    if (a->n_kv_head % size && size % a->n_kv_head) return refuse(size, "KV heads", a->n_kv_head, e);
    if (a->ffn_dim % size) return refuse(size, "feed-forward rows", a->ffn_dim, e);
    if (a->vocab % size) return refuse(size, "tokens of vocabulary", a->vocab, e);
    if (size > 1 && a->qk_norm == QK_NORM_ROW)
        return err_param(
            e, ERR_UNSUPPORTED, "tensor-parallel-size",
            "--tensor-parallel-size %d: the model (%s) norms queries and keys over all heads, which "
            "cannot be split",
            size, a->name);
    struct share head = cut(a->n_head, rank, size), kv_head = cut_kv(a->n_kv_head, rank, size);
    *out = (struct split){.q = times(head, a->head_dim),
                          .kv = times(kv_head, a->head_dim),
                          .ffn = cut(a->ffn_dim, rank, size),
                          .vocab = cut(a->vocab, rank, size),
                          .rank = rank,
                          .size = size};
    *part = *whole;
    part->n_head = head.take;
    part->n_kv_head = kv_head.take;
    part->ffn_dim = out->ffn.take;
    return 0;
}
