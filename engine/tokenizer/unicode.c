#include "unicode.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "err.h"
#include "utf8.h"

static utf8proc_category_t category(uint32_t cp) { return utf8proc_category((utf8proc_int32_t)cp); }

bool uni_is_space(uint32_t cp)
{
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 ||
           cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool uni_is_numeric(uint32_t cp)
{
    if (cp < 0x80) return cp >= '0' && cp <= '9';
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

bool uni_is_punct(uint32_t cp)
{
    if (cp < 0x80)
        return (cp >= '!' && cp <= '/') || (cp >= ':' && cp <= '@') || (cp >= '[' && cp <= '`') ||
               (cp >= '{' && cp <= '~');
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool uni_is_mark(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return cp >= 0x300 && c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME;
}

bool uni_is_word(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    if ((c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC) return true;
    /* Join_Control, and the enclosed letters, which are Alphabetic though their category is So. */
    return cp == 0x200c || cp == 0x200d || (cp >= 0x24b6 && cp <= 0x24e9) ||
           (cp >= 0x1f130 && cp <= 0x1f149) || (cp >= 0x1f150 && cp <= 0x1f169) ||
           (cp >= 0x1f170 && cp <= 0x1f189);
}

/* Code points of one stretch between two ASCII characters. */
struct stretch {
    int32_t *cp;
    int32_t *tmp; /* room for sorting */
    size_t n, cap;
};

static int ccc(int32_t cp) { return utf8proc_get_property(cp)->combining_class; }

/* Stable counting sort of a run of marks by combining class (Unicode 3.11, D109). */
static void sort_marks(int32_t *v, size_t n, int32_t *tmp)
{
    size_t count[257] = {0};
    for (size_t i = 0; i < n; i++) count[ccc(v[i]) + 1]++;
    for (int c = 0; c < 256; c++) count[c + 1] += count[c];
    for (size_t i = 0; i < n; i++) tmp[count[ccc(v[i])]++] = v[i];
    memcpy(v, tmp, n * sizeof *v);
}

static void order_marks(struct stretch *st)
{
    for (size_t i = 0; i < st->n;) {
        size_t j = i;
        bool sorted = true;
        for (; j < st->n && ccc(st->cp[j]); j++)
            if (j > i && ccc(st->cp[j]) < ccc(st->cp[j - 1])) sorted = false;
        if (!sorted) sort_marks(st->cp + i, j - i, st->tmp);
        i = j > i ? j : i + 1;
    }
}

static int stretch_grow(struct stretch *st)
{
    if (st->n + 32 <= st->cap) return 0; /* no character decomposes into more than 18 */
    size_t cap = st->cap ? st->cap * 2 : 256;
    int32_t *cp = realloc(st->cp, cap * sizeof *cp);
    if (cp) st->cp = cp;
    int32_t *tmp = realloc(st->tmp, cap * sizeof *tmp);
    if (tmp) st->tmp = tmp;
    if (!cp || !tmp) return ERR_NOMEM;
    st->cap = cap;
    return 0;
}

static int normalize_stretch(enum uni_form form, const char *s, size_t n, struct stretch *st, struct buf *out)
{
    int opt = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (form == UNI_NFKC || form == UNI_NFKD) opt |= UTF8PROC_COMPAT;
    st->n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int k = utf8_next(s + i, n - i, &cp), state = 0;
        if (k <= 0 || stretch_grow(st)) return ERR_NOMEM;
        i += (size_t)k;
        utf8proc_ssize_t m =
            utf8proc_decompose_char((utf8proc_int32_t)cp, st->cp + st->n, (utf8proc_ssize_t)(st->cap - st->n),
                                    (utf8proc_option_t)opt, &state);
        if (m < 0) return ERR_NOMEM;
        st->n += (size_t)m;
    }
    order_marks(st);
    utf8proc_ssize_t m = (utf8proc_ssize_t)st->n;
    if (form == UNI_NFC || form == UNI_NFKC)
        m = utf8proc_normalize_utf32(st->cp, m, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    for (utf8proc_ssize_t i = 0; i < m; i++) {
        char c[4];
        buf_add(out, c, (size_t)utf8_put(c, (uint32_t)st->cp[i]));
    }
    return 0;
}

int uni_normalize(enum uni_form form, const char *s, size_t n, struct buf *out)
{
    struct stretch st = {0};
    int status = 0;
    for (size_t i = 0; i < n && !status;) {
        size_t a = i; /* ASCII is in every normal form ... */
        while (a < n && !(s[a] & 0x80)) a++;
        size_t keep =
            a < n && a > i ? a - 1 : a; /* ... but its last character may compose with what follows */
        buf_add(out, s + i, keep - i);
        size_t b = a;
        while (b < n && s[b] & 0x80) b++;
        if (b > keep) status = normalize_stretch(form, s + keep, b - keep, &st, out);
        i = b;
    }
    free(st.cp);
    free(st.tmp);
    return status ? status : out->failed ? ERR_NOMEM : 0;
}

void uni_lower(const char *s, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int k = utf8_next(s + i, n - i, &cp);
        if (k <= 0) return;
        i += (size_t)k;
        char c[4];
        if (cp == 0x130) { /* the one full lower case mapping of two characters */
            buf_str(out, "i\xcc\x87");
        } else {
            buf_add(out, c, (size_t)utf8_put(c, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp)));
        }
    }
}

static bool is_own_stand_in(unsigned b)
{
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
}

/* Byte -> its stand-in: bytes 0..0x20 are U+0100.., 0x7f..0xa0 follow, 0xad is the last. */
static uint32_t stand_in(unsigned b)
{
    if (is_own_stand_in(b)) return b;
    return 0x100 + (b <= 0x20 ? b : b <= 0xa0 ? b - 0x7f + 0x21 : 0x43);
}

void uni_bytes_encode(const char *s, size_t n, struct buf *out)
{
    if (n > SIZE_MAX / 4 || buf_reserve(out, n * 2)) return;
    char *p = out->data + out->len;
    for (size_t i = 0; i < n; i++) {
        uint32_t cp = stand_in((unsigned char)s[i]);
        if (cp < 0x80) {
            *p++ = (char)cp;
        } else {
            *p++ = (char)(0xc0 | cp >> 6);
            *p++ = (char)(0x80 | (cp & 0x3f));
        }
    }
    *p = 0;
    out->len = (size_t)(p - out->data);
}

bool uni_bytes_decode(const char *s, size_t n, struct buf *out)
{
    size_t from = out->len;
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int k = utf8_next(s + i, n - i, &cp), b = -1;
        if (k > 0 && cp < 0x100 && is_own_stand_in(cp)) {
            b = (int)cp;
        } else if (k > 0 && cp >= 0x100 && cp <= 0x143) {
            b = cp <= 0x120 ? (int)cp - 0x100 : cp <= 0x142 ? (int)cp - 0x121 + 0x7f : 0xad;
        }
        if (b < 0) {
            out->len = from;
            return false;
        }
        buf_chr(out, (char)b);
        i += (size_t)k;
    }
    return true;
}
