/* The part of cublasLt that y = x w^T needs, in plain loops, so that layouts, transposes, leading dimensions
 * and scales are tested without the library. Matrices are column-major as in cublasLt. What it cannot do it
 * refuses aloud. Handles own their attributes; nothing is shared between threads. */
#include "runtime.h"
#include <cublasLt.h>

struct matmul_desc {
    cublasOperation_t op[2] = {CUBLAS_OP_N, CUBLAS_OP_N};
    const float *scale[2] = {0, 0};
    int32_t scale_mode[2] = {0, 0}; /* one factor, or one for every row of A / column of B */
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void *bias = 0;
    cudaDataType_t bias_type = (cudaDataType_t)-1; /* as the output's */
};
struct matrix_layout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld, stride;
    int32_t batch;
};

static float load(const void *p, cudaDataType_t t, size_t i)
{
    switch ((int)t) {
    case CUDA_R_32F: return ((const float *)p)[i];
    case CUDA_R_16BF: return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    case CUDA_R_16F: return __half2float(((const __half *)p)[i]);
    case CUDA_R_8F_E4M3: return (float)((const __nv_fp8_e4m3 *)p)[i];
    case CUDA_R_8F_E5M2: return (float)((const __nv_fp8_e5m2 *)p)[i];
    default: cuemu_fail("cublasLt: data type %d has no twin", (int)t);
    }
}
static void store(void *p, cudaDataType_t t, size_t i, float v)
{
    switch ((int)t) {
    case CUDA_R_32F: ((float *)p)[i] = v; break;
    case CUDA_R_16BF: ((__nv_bfloat16 *)p)[i] = __float2bfloat16(v); break;
    case CUDA_R_16F: ((__half *)p)[i] = __float2half(v); break;
    default: cuemu_fail("cublasLt: output type %d has no twin", (int)t);
    }
}
/* Column c of op(M), as floats: [rows of op(M)]. */
static void column(const void *p, const matrix_layout &l, bool transposed, size_t batch, size_t c,
                   std::vector<float> *out)
{
    size_t n = transposed ? l.cols : l.rows, base = batch * (size_t)l.stride, ld = (size_t)l.ld;
    out->resize(n);
    for (size_t i = 0; i < n; i++) (*out)[i] = load(p, l.type, base + (transposed ? c + i * ld : i + c * ld));
}
static float scale_at(const matmul_desc &d, int side, size_t i)
{
    const float *s = d.scale[side];
    if (!s) return 1;
    return s[d.scale_mode[side] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F ? i : 0];
}

struct call {
    matmul_desc d;
    matrix_layout a, b, c, o;
    const void *A, *B, *C;
    void *D;
    float alpha, beta;
    uint64_t m, n, k;
};
static void run(const call &x)
{
    std::vector<float> ca, cb;
    bool ta = x.d.op[0] != CUBLAS_OP_N, tb = x.d.op[1] != CUBLAS_OP_N;
    cudaDataType_t bias_type = (int)x.d.bias_type < 0 ? x.o.type : x.d.bias_type;
    for (size_t z = 0; z < (size_t)x.o.batch; z++) {
        std::vector<std::vector<float>> rows(x.m); /* of op(A), each [k] */
        for (size_t i = 0; i < x.m; i++) column(x.A, x.a, !ta, z, i, &rows[i]);
        for (size_t j = 0; j < x.n; j++) {
            column(x.B, x.b, tb, z, j, &cb);
            for (size_t i = 0; i < x.m; i++) {
                float sum = 0;
                for (size_t e = 0; e < x.k; e++) sum += rows[i][e] * cb[e];
                sum *= x.alpha * scale_at(x.d, 0, i) * scale_at(x.d, 1, j);
                if (x.beta != 0)
                    sum += x.beta * load(x.C, x.c.type, z * (size_t)x.c.stride + i + j * (size_t)x.c.ld);
                if (x.d.epilogue == CUBLASLT_EPILOGUE_BIAS) sum += load(x.d.bias, bias_type, i);
                store(x.D, x.o.type, z * (size_t)x.o.stride + i + j * (size_t)x.o.ld, sum);
            }
        }
    }
}

#define TWIN extern "C" cublasStatus_t CUBLASWINAPI
#define OK   CUBLAS_STATUS_SUCCESS

TWIN cublasLtCreate(cublasLtHandle_t *h)
{
    *h = (cublasLtHandle_t) new int(cuemu_device());
    return OK;
}
TWIN cublasLtDestroy(cublasLtHandle_t h)
{
    delete (int *)h;
    return OK;
}
extern "C" size_t CUBLASWINAPI cublasLtGetVersion(void) { return CUBLAS_VERSION; }
extern "C" const char *CUBLASWINAPI cublasLtGetStatusString(cublasStatus_t s)
{
    return s ? "cublasLt failed" : "success";
}

TWIN cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t c, cudaDataType_t scale)
{
    if (c != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *d = (cublasLtMatmulDesc_t) new matmul_desc();
    return OK;
}
TWIN cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    delete (matmul_desc *)d;
    return OK;
}
TWIN cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t h, cublasLtMatmulDescAttributes_t a, const void *v,
                                    size_t n)
{
    matmul_desc *d = (matmul_desc *)h;
    size_t want = sizeof(int32_t);
    switch (a) {
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: want = sizeof(void *); break;
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM: want = 1; break;
    default: break;
    }
    if (n != want) return CUBLAS_STATUS_INVALID_VALUE;
    switch (a) {
    case CUBLASLT_MATMUL_DESC_TRANSA: memcpy(&d->op[0], v, n); break;
    case CUBLASLT_MATMUL_DESC_TRANSB: memcpy(&d->op[1], v, n); break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: memcpy(&d->scale[0], v, n); break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: memcpy(&d->scale[1], v, n); break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE: memcpy(&d->scale_mode[0], v, n); break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE: memcpy(&d->scale_mode[1], v, n); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE: memcpy(&d->epilogue, v, n); break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: memcpy(&d->bias, v, n); break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: memcpy(&d->bias_type, v, n); break;
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM: break;
    default: cuemu_fail("cublasLt: matmul attribute %d has no twin", (int)a);
    }
    return OK;
}

TWIN cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType_t t, uint64_t rows, uint64_t cols,
                                int64_t ld)
{
    if (ld < (int64_t)rows || !rows || !cols) return CUBLAS_STATUS_INVALID_VALUE;
    *l = (cublasLtMatrixLayout_t) new matrix_layout{t, rows, cols, ld, 0, 1};
    return OK;
}
TWIN cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    delete (matrix_layout *)l;
    return OK;
}
TWIN cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t h, cublasLtMatrixLayoutAttribute_t a,
                                      const void *v, size_t n)
{
    matrix_layout *l = (matrix_layout *)h;
    switch (a) {
    case CUBLASLT_MATRIX_LAYOUT_ROWS: memcpy(&l->rows, v, n); break;
    case CUBLASLT_MATRIX_LAYOUT_COLS: memcpy(&l->cols, v, n); break;
    case CUBLASLT_MATRIX_LAYOUT_LD: memcpy(&l->ld, v, n); break;
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: memcpy(&l->batch, v, n); break;
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: memcpy(&l->stride, v, n); break;
    default: cuemu_fail("cublasLt: layout attribute %d has no twin", (int)a);
    }
    return OK;
}

TWIN cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    *p = (cublasLtMatmulPreference_t) new size_t(0);
    return OK;
}
TWIN cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    delete (size_t *)p;
    return OK;
}
TWIN cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                          const void *, size_t)
{
    return OK;
}

/* What the library demands of its tensor-core kernels: 16-byte rows and, for fp8, A transposed and B not. */
static bool supported(const matmul_desc &d, const matrix_layout &a, const matrix_layout &b)
{
    bool fp8 = a.type == CUDA_R_8F_E4M3 || a.type == CUDA_R_8F_E5M2;
    return !fp8 || (d.op[0] == CUBLAS_OP_T && d.op[1] == CUBLAS_OP_N && a.ld % 16 == 0 && b.ld % 16 == 0);
}
TWIN cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
                                    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                    cublasLtMatmulPreference_t, int most, cublasLtMatmulHeuristicResult_t *r,
                                    int *found)
{
    *found = 0;
    if (most < 1 || !supported(*(matmul_desc *)d, *(matrix_layout *)a, *(matrix_layout *)b))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    memset(r, 0, sizeof *r);
    *found = 1;
    return OK;
}
TWIN cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t dd, const void *alpha, const void *A,
                    cublasLtMatrixLayout_t la, const void *B, cublasLtMatrixLayout_t lb, const void *beta,
                    const void *C, cublasLtMatrixLayout_t lc, void *D, cublasLtMatrixLayout_t lo,
                    const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t s)
{
    call x = {*(matmul_desc *)dd,
              *(matrix_layout *)la,
              *(matrix_layout *)lb,
              *(matrix_layout *)lc,
              *(matrix_layout *)lo,
              A,
              B,
              C,
              D,
              *(const float *)alpha,
              *(const float *)beta,
              0,
              0,
              0};
    bool ta = x.d.op[0] != CUBLAS_OP_N, tb = x.d.op[1] != CUBLAS_OP_N;
    x.m = ta ? x.a.cols : x.a.rows;
    x.k = ta ? x.a.rows : x.a.cols;
    x.n = tb ? x.b.rows : x.b.cols;
    if (x.k != (tb ? x.b.cols : x.b.rows) || x.m != x.o.rows || x.n != x.o.cols || x.a.batch != x.o.batch ||
        x.b.batch != x.o.batch)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!supported(x.d, x.a, x.b) || ((uintptr_t)A | (uintptr_t)B | (uintptr_t)D) % 16)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (x.d.epilogue != CUBLASLT_EPILOGUE_DEFAULT && x.d.epilogue != CUBLASLT_EPILOGUE_BIAS)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    cuemu_submit(s, [x] { run(x); });
    return OK;
}
