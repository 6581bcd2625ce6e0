#include "utf8.h"
#include "buf.h"

int utf8_next(const char *str, size_t n, uint32_t *cp)
{
    const unsigned char *s = (const unsigned char *)str;
    unsigned c = s[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    int len = c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    if (!len) return 0;
    /* The second byte's range excludes overlong forms, surrogates and values above U+10FFFF (RFC 3629 table
     * 3-7). */
    unsigned lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    uint32_t v = c & (0x7fu >> len);
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n) return -1;
        if (s[i] < lo || s[i] > hi) return 0;
        lo = 0x80;
        hi = 0xbf;
        v = v << 6 | (s[i] & 0x3f);
    }
    *cp = v;
    return len;
}

int utf8_put(char out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp >= 0xd800 && cp <= 0xdfff) return 0;
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    if (cp > 0x10ffff) return 0;
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

bool utf8_valid(const char *s, size_t n)
{
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        int k = utf8_next(s + i, n - i, &cp);
        if (k <= 0) return false;
        i += (size_t)k;
    }
    return true;
}

size_t utf8_whole(const char *s, size_t n)
{
    uint32_t cp;
    size_t from = n > 3 ? n - 3 : 0;
    for (size_t i = from; i < n; i++)
        if (((unsigned char)s[i] & 0xc0) != 0x80 && utf8_next(s + i, n - i, &cp) == -1) return i;
    return n;
}

void utf8_clean(struct buf *b, const char *s, size_t n)
{
    uint32_t cp;
    size_t start = 0, i = 0;
    while (i < n) {
        int k = utf8_next(s + i, n - i, &cp);
        if (k > 0) {
            i += (size_t)k;
            continue;
        }
        buf_add(b, s + start, i - start);
        buf_str(b, "\xef\xbf\xbd");
        /* Skip the maximal part that could have begun a code point: lead byte plus the continuations it
         * accepts. */
        size_t skip = 1;
        while (i + skip < n && skip < 3 && utf8_next(s + i, skip + 1, &cp) == -1) skip++;
        i += skip;
        start = i;
    }
    if (start < n) buf_add(b, s + start, n - start);
}
