/* Products of many rows by cublasLt, if the library is there: it is half a gigabyte, so it is opened at run
 * time and inferd does without it. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include "gemm.cuh"

#define FUNCTIONS(X)                                                                                         \
    X(Create)                                                                                                \
    X(Destroy)                                                                                               \
    X(MatmulDescCreate)                                                                                      \
    X(MatmulDescSetAttribute)                                                                                \
    X(MatmulDescDestroy)                                                                                     \
    X(MatrixLayoutCreate)                                                                                    \
    X(MatrixLayoutDestroy)                                                                                   \
    X(MatmulPreferenceCreate)                                                                                \
    X(MatmulPreferenceSetAttribute)                                                                          \
    X(MatmulPreferenceDestroy)                                                                               \
    X(MatmulAlgoGetHeuristic)                                                                                \
    X(Matmul)

/* An algorithm for a shape, found once: the heuristic costs more than a small product. */
struct choice {
    int n_out, n_in, stride, rows; /* rows: a power of two, n or the next above */
    enum dtype type;               /* of y, as is the stride */
    cublasLtMatmulAlgo_t algo;
};
enum { MAX_CHOICES = 512 };
struct cu_lt {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    int n_choice, next;
    struct choice choice[MAX_CHOICES];
#define X(name) decltype(&cublasLt##name) name;
    FUNCTIONS(X)
#undef X
};

static bool load(struct cu_lt *lt)
{
#ifdef CUEMU
#define X(name) lt->name = cublasLt##name;
    FUNCTIONS(X)
#undef X
#else
    void *lib = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    if (!lib) lib = dlopen("libcublasLt.so", RTLD_NOW | RTLD_LOCAL);
    if (!lib) return false;
#define X(name)                                                                                              \
    lt->name = (decltype(&cublasLt##name))dlsym(lib, "cublasLt" #name);                                      \
    if (!lt->name) return false;
    FUNCTIONS(X)
#undef X
#endif
    return true;
}

struct cu_lt *lt_open(void)
{
    struct cu_lt *lt = (struct cu_lt *)calloc(1, sizeof *lt);
    cublasOperation_t t = CUBLAS_OP_T;
    if (!lt) return NULL;
    if (load(lt) && lt->Create(&lt->handle) == CUBLAS_STATUS_SUCCESS &&
        lt->MatmulDescCreate(&lt->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
        lt->MatmulDescSetAttribute(lt->desc, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t) ==
            CUBLAS_STATUS_SUCCESS)
        return lt;
    lt_close(lt);
    return NULL;
}

/* The library stays loaded: the device knows its code by then. */
void lt_close(struct cu_lt *lt)
{
    if (!lt) return;
    if (lt->desc) lt->MatmulDescDestroy(lt->desc);
    if (lt->handle) lt->Destroy(lt->handle);
    free(lt);
}

/* cublasLt counts columns first: y is [n_out] x [n] of w, transposed, and x. */
struct layouts {
    cublasLtMatrixLayout_t w, x, y;
};
static bool layouts_make(struct cu_lt *lt, int n_out, int n_in, int n, struct lt_out to, struct layouts *l)
{
    cudaDataType_t y = to.type == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    return lt->MatrixLayoutCreate(&l->w, CUDA_R_16BF, n_in, n_out, n_in) == CUBLAS_STATUS_SUCCESS &&
           lt->MatrixLayoutCreate(&l->x, CUDA_R_16BF, n_in, n, n_in) == CUBLAS_STATUS_SUCCESS &&
           lt->MatrixLayoutCreate(&l->y, y, n_out, n, to.stride) == CUBLAS_STATUS_SUCCESS;
}
static void layouts_free(struct cu_lt *lt, struct layouts *l)
{
    if (l->w) lt->MatrixLayoutDestroy(l->w);
    if (l->x) lt->MatrixLayoutDestroy(l->x);
    if (l->y) lt->MatrixLayoutDestroy(l->y);
}

static bool heuristic(struct cu_lt *lt, const struct layouts *l, cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulPreference_t pref;
    cublasLtMatmulHeuristicResult_t result;
    size_t scratch = SCRATCH_BYTES;
    int found = 0;
    if (lt->MatmulPreferenceCreate(&pref) != CUBLAS_STATUS_SUCCESS) return false;
    lt->MatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &scratch,
                                     sizeof scratch);
    const cublasLtMatmulPreferenceAttributes_t sides[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint32_t alignment = LT_ALIGNMENT;
    for (int i = 0; i < 4; i++)
        lt->MatmulPreferenceSetAttribute(pref, sides[i], &alignment, sizeof alignment);
    bool ok = lt->MatmulAlgoGetHeuristic(lt->handle, lt->desc, l->w, l->x, l->y, l->y, pref, 1, &result,
                                         &found) == CUBLAS_STATUS_SUCCESS &&
              found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    lt->MatmulPreferenceDestroy(pref);
    if (ok) *algo = result.algo;
    return ok;
}

/* The choice for a bucket of rows is made at its upper end. NULL if there is none. */
static const struct choice *choose(struct cu_lt *lt, int n_out, int n_in, int n, struct lt_out to)
{
    int rows = 1;
    while (rows < n) rows *= 2;
    for (int i = 0; i < lt->n_choice; i++) {
        const struct choice *h = &lt->choice[i];
        if (h->n_out == n_out && h->n_in == n_in && h->stride == to.stride && h->type == to.type &&
            h->rows == rows)
            return h;
    }
    struct choice made = {n_out, n_in, to.stride, rows, to.type, {}};
    struct layouts l = {};
    bool ok = layouts_make(lt, n_out, n_in, rows, to, &l) && heuristic(lt, &l, &made.algo);
    layouts_free(lt, &l);
    if (!ok) return NULL;
    struct choice *at = &lt->choice[lt->next];
    lt->next = (lt->next + 1) % MAX_CHOICES;
    if (lt->n_choice < MAX_CHOICES) lt->n_choice++;
    *at = made;
    return at;
}

bool lt_linear(struct cuda *c, struct cu_lt *lt, const void *w, int n_out, int n_in, const uint16_t *x, int n,
               struct lt_out to, void *scratch)
{
    const struct choice *h = choose(lt, n_out, n_in, n, to);
    struct layouts l = {};
    float one = 1, zero = 0;
    bool ok = h && layouts_make(lt, n_out, n_in, n, to, &l) &&
              lt->Matmul(lt->handle, lt->desc, &one, w, l.w, x, l.x, &zero, to.y, l.y, to.y, l.y, &h->algo,
                         scratch, SCRATCH_BYTES, c->stream) == CUBLAS_STATUS_SUCCESS;
    layouts_free(lt, &l);
    return ok;
}
