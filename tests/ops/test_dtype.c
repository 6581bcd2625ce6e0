/* Number formats against vectors computed by gguf-py, and the 16-bit conversions exhaustively. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "dtype_vectors.h"
#include "half.h"

START_TEST(quantised_types_match_gguf)
{
    float y[256];
    for (size_t i = 0; i < sizeof dtype_vectors / sizeof *dtype_vectors; i++) {
        const struct dtype_info *d = dtype_info(dtype_vectors[i].type);
        ck_assert_uint_eq(dtype_row_bytes(dtype_vectors[i].type, dtype_vectors[i].n),
                          (size_t)(dtype_vectors[i].n / d->block * d->bytes));
        dtype_to_f32(dtype_vectors[i].type, dtype_vectors[i].bytes, y, dtype_vectors[i].n);
        for (int k = 0; k < dtype_vectors[i].n; k++)
            ck_assert_msg(y[k] == dtype_vectors[i].values[k], "%s value %d: %a, expected %a", d->name, k,
                          (double)y[k], (double)dtype_vectors[i].values[k]);
    }
}
END_TEST

START_TEST(quantisation_matches_gguf)
{
    unsigned char b[68];
    ck_assert(dtype_from_f32(DT_Q8_0, quant_in, b, 64));
    ck_assert_mem_eq(b, q8_0_quant, 68);
    ck_assert(dtype_from_f32(DT_Q4_0, quant_in, b, 64));
    ck_assert_mem_eq(b, q4_0_quant, 36);
    ck_assert(!dtype_from_f32(DT_Q4_K, quant_in, b, 64));
}
END_TEST

/* The value of a half by its definition. */
static double half_value(unsigned h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? (m ? (double)NAN : (double)INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

START_TEST(halves_convert_exactly)
{
    for (unsigned h = 0; h < 65536; h++) {
        float f = half_to_f32((uint16_t)h);
        double want = half_value(h);
        if (isnan(want)) {
            ck_assert(isnan(f));
            ck_assert(isnan(half_to_f32(half_from_f32(f))));
            continue;
        }
        ck_assert((double)f == want && !signbit(f) == !signbit(want));
        ck_assert_uint_eq(half_from_f32(f), h);
        ck_assert_uint_eq(bf16_from_f32(bf16_to_f32((uint16_t)h)),
                          isnan(bf16_to_f32((uint16_t)h)) ? h | 0x40 : h);
    }
}
END_TEST

START_TEST(halves_round_to_nearest_even)
{
    /* Halfway between neighbours the even one wins, and any bit more or less decides. */
    for (unsigned h = 0; h < 0x7c00; h++) {
        float low = half_to_f32((uint16_t)h), high = h == 0x7bff ? 65536.0f : half_to_f32((uint16_t)(h + 1));
        float mid = low + (high - low) / 2;
        ck_assert_uint_eq(half_from_f32(mid), h & 1 ? h + 1 : h);
        ck_assert_uint_eq(half_from_f32(nextafterf(mid, INFINITY)), h + 1);
        ck_assert_uint_eq(half_from_f32(nextafterf(mid, 0)), h);
    }
    ck_assert_uint_eq(half_from_f32(1e9f), 0x7c00);
    ck_assert_uint_eq(bf16_from_f32(f32_from_bits(0x3f808000)), 0x3f80);
    ck_assert_uint_eq(bf16_from_f32(f32_from_bits(0x3f818000)), 0x3f82);
    ck_assert_uint_eq(bf16_from_f32(f32_from_bits(0x3f808001)), 0x3f81);
    ck_assert_uint_eq(bf16_from_f32(f32_from_bits(0x7f800001)), 0x7fc0); /* NaN does not become infinity */
}
END_TEST

START_TEST(e4m3_rounds_to_nearest_even)
{
    for (unsigned c = 0; c < 0x7e; c++) { /* 0x7e is 448, the largest */
        float low = e4m3_to_f32((uint8_t)c), high = e4m3_to_f32((uint8_t)(c + 1)), mid = (low + high) / 2;
        ck_assert_uint_eq(e4m3_from_f32(low), c);
        ck_assert_uint_eq(e4m3_from_f32(-low), c | 0x80);
        ck_assert_uint_eq(e4m3_from_f32(mid), c & 1 ? c + 1 : c);
        ck_assert_uint_eq(e4m3_from_f32(nextafterf(mid, INFINITY)), c + 1);
        ck_assert_uint_eq(e4m3_from_f32(-nextafterf(mid, 0)), c | 0x80);
    }
    ck_assert_uint_eq(e4m3_from_f32(1e-40f), 0);
    ck_assert_uint_eq(e4m3_from_f32(480), 0x7e);
    ck_assert_uint_eq(e4m3_from_f32(-3e38f), 0xfe);
    ck_assert_uint_eq(e4m3_from_f32(INFINITY), 0x7e);
    ck_assert_uint_eq(e4m3_from_f32(NAN), 0x7f);
    ck_assert_uint_eq(e4m3_from_f32(-NAN), 0x7f);
}
END_TEST

START_TEST(row_sizes_are_checked)
{
    ck_assert_uint_eq(dtype_row_bytes(DT_Q4_K, 255), 0);
    ck_assert_uint_eq(dtype_row_bytes(DT_Q8_0, -32), 0);
    ck_assert_uint_eq(dtype_row_bytes(DT_F32, 0), 0);
    ck_assert_uint_eq(dtype_row_bytes(DT_F32, INT64_MAX), 0);
    ck_assert_uint_eq(dtype_row_bytes(DT_Q6_K, 512), 420);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("dtype");
    TCase *t = tcase_create("dtype");
    tcase_add_test(t, quantised_types_match_gguf);
    tcase_add_test(t, quantisation_matches_gguf);
    tcase_add_test(t, halves_convert_exactly);
    tcase_add_test(t, halves_round_to_nearest_even);
    tcase_add_test(t, e4m3_rounds_to_nearest_even);
    tcase_add_test(t, row_sizes_are_checked);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
