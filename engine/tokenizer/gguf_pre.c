#include "gguf_pre.h"
#include <string.h>
#include "tok.h"

/* Building blocks that the published tokenizer.json files share. */
#define CONTRACT   "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD       "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define REST       " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3     CONTRACT "|" WORD "|\\p{N}{1,3}|" REST
#define QWEN2      CONTRACT "|" WORD "|\\p{N}|" REST
#define UPPER      "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER      "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define LEAD       "[^\\r\\n\\p{L}\\p{N}]?"
#define REST_SLASH " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEKKEN     LEAD UPPER "*" LOWER "+|" LEAD UPPER "+" LOWER "*|\\p{N}|" REST_SLASH
#define GPT4O                                                                                                \
    LEAD UPPER "*" LOWER "+" CONTRACT "?|" LEAD UPPER "+" LOWER "*" CONTRACT "?|\\p{N}{1,3}|" REST_SLASH
#define ASCII_PUNCT "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]"
#define DEEPSEEK3                                                                                            \
    ASCII_PUNCT                                                                                              \
    "[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|"        \
    "\\s+(?!\\S)|\\s+"
#define CJK   "[一-龥\\x{3040}-ゟ゠-ヿ]+"
#define BLOOM " ?[^(\\s|.,!?…。，、।۔،)]+"

/* Cased letters as DeepSeek's first tokenizers list them. */
#define DEEPSEEK_LETTERS                                                                                     \
    "\\s?["                                                                                                  \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"          \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}"                    \
    "\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}"          \
    "\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}"          \
    "\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"        \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}"         \
    "\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"         \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}"        \
    "\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}"          \
    "\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}"                   \
    "\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}"                   \
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"         \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"        \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"                       \
    "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"                   \
    "\\x{1e900}-\\x{1e943}"                                                                                  \
    "]+"

static const struct gguf_pre table[] = {
    {.names = "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
     .regex = {LLAMA3},
     .ignore_merges = true,
     .add_bos = true},
    {.names = "dbrx smaug-bpe chatglm-bpe glm4", .regex = {LLAMA3}},
    {.names = "qwen2 deepseek-r1-qwen", .regex = {QWEN2}, .nfc = true},
    {.names = "stablelm2 hunyuan megrez grok-2 solar-open", .regex = {QWEN2}},
    {.names = "qwen35",
     .nfc = true,
     .regex =
         {CONTRACT
          "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
          "\\s+(?!\\S)|\\s+"}},
    {.names = "deepseek-v3 hunyuan-dense joyai-llm", .regex = {"\\p{N}{1,3}", CJK, DEEPSEEK3}},
    {.names = "deepseek-llm",
     .regex = {"[\\r\\n]", DEEPSEEK_LETTERS, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+$",
               "[一-龥\\x{800}-一가-\\x{d7ff}]+", "\\p{N}+"}},
    {.names = "deepseek-coder",
     .regex = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥\\x{800}-一가-\\x{d7ff}]+", "\\p{N}"}},
    {.names =
         "gpt-2 phi-2 jina-es jina-de gigachat a.x-4.0 mellum mpt olmo jais trillion granite-docling exaone4",
     .regex = {GPT2_PATTERN}},
    {.names = "starcoder refact command-r smollm codeshell exaone minerva-7b",
     .regex = {"\\p{N}", GPT2_PATTERN}},
    {.names = "falcon", .regex = {"[\\p{P}$+<=>^~|`]+", GPT2_PATTERN, "[0-9][0-9][0-9]"}},
    {.names = "default", .regex = {"[\\p{P}$+<=>^~|]+", GPT2_PATTERN, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = "tekken", .regex = {TEKKEN}, .ignore_merges = true, .add_bos = true},
    {.names = "gpt-4o llama4 kanana2 minimax-m2", .regex = {GPT4O}},
    {.names = "bailingmoe bailingmoe2 llada-moe",
     .regex = {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| "
               "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|"
               "\\s+(?!\\S)|\\s+"}},
    {.names = "seed-coder",
     .regex = {CONTRACT "|" WORD "|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {.names = "bloom poro-chat gpt3-finnish", .regex = {BLOOM}},
    {.names = "viking", .regex = {BLOOM, "\\p{N}"}},
    {.names = "superbpe", .regex = {"\\p{N}+", "(?=(\\d{3})+(?!\\d))"}},
    {.names = "gemma4", .regex = {"[^\\n]+|[\\n]+"}, .raw = true},
};

const struct gguf_pre *gguf_pre_find(const char *name, unsigned long n)
{
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
        for (const char *s = table[i].names; *s;) {
            unsigned long len = strcspn(s, " ");
            if (len == n && !memcmp(s, name, n)) return &table[i];
            s += len + (s[len] == ' ');
        }
    }
    return NULL;
}

const char *gguf_pre_known(int i)
{
    return i >= 0 && (unsigned)i < sizeof table / sizeof *table ? table[i].names : NULL;
}
