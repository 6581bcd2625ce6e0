#!/usr/bin/env python3
"""Small tokenizers in the style of the published model families, with what Hugging Face's `tokenizers` makes of
random text: the data of tests/unit/tokenizer, and the source of larger differential runs.

usage: make_tokenizer_cases.py OUT_DIR [--texts N] [--seed S] [--vocab V] [--only NAME,NAME]     needs: tokenizers

Writes OUT_DIR/NAME.tokenizer.json and OUT_DIR/NAME.cases.json:
  {"encode": [[text, flags, ids], ...], "decode": [[ids, skip_special, text], ...]}   flags: 1 add special, 2 parse special
"""
import argparse, glob, json, os, random, unicodedata
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FILES = sorted(glob.glob("/usr/share/common-licenses/*")) + sorted(glob.glob("/usr/share/perl/5*/**/*.p[lm]", recursive=True))[:60]
CONTRACT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
QWEN2 = LLAMA3.replace("{1,3}", "")
UP, LOW, LEAD = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[^\r\n\p{L}\p{N}]?"
SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = f"{LEAD}{UP}*{LOW}+|{LEAD}{UP}+{LOW}*|\\p{{N}}|{SLASH}"
GPT4O = f"{LEAD}{UP}*{LOW}+{CONTRACT}?|{LEAD}{UP}+{LOW}*{CONTRACT}?|\\p{{N}}{{1,3}}|{SLASH}"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
DEEPSEEK3 = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
P, D, N, S = pre_tokenizers, decoders, normalizers, AddedToken

def seq(*p): return P.Sequence(list(p))
def split(regex, behavior="isolated", invert=False): return P.Split(Regex(regex), behavior, invert)
def bl(prefix=False, regex=False): return P.ByteLevel(add_prefix_space=prefix, use_regex=regex)
def special(*names, **kw): return [S(n, special=True, normalized=False, **kw) for n in names]
def spm_decoder(strip=True):
    return D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()] + ([D.Strip(" ", 1, 0)] if strip else []))
LLAMA_NORM = lambda: N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
BOS = ("<s>", "$A", None)

# name: kind (byte, spm, char), normalizer, pre-tokenizer, decoder, added tokens, template (before, after) or processor, model options
def families():
    chat = special("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    torture = [S("lonely", single_word=True), S("[LEFT]", lstrip=True, special=True), S("[RIGHT]", rstrip=True, special=True, normalized=False),
               S("[BOTH]", lstrip=True, rstrip=True, normalized=True), S("New York", normalized=True), S("Raw Case", normalized=False), S("\t\t", normalized=False)]
    f = {
     "gpt2": ("byte", None, bl(False, True), D.ByteLevel(), special("<|endoftext|>"), None, {}),
     "roberta": ("byte", None, bl(True, True), D.ByteLevel(), special("<s>", "</s>") + special("<mask>", lstrip=True), "roberta", {}),
     "llama3": ("byte", None, seq(split(LLAMA3), bl()), D.ByteLevel(), special("<|begin_of_text|>", "<|eot_id|>"), ("<|begin_of_text|>", None), {"ignore_merges": True}),
     "qwen2": ("byte", N.NFC(), seq(split(QWEN2), bl()), D.ByteLevel(), chat + [S("<tool_call>", normalized=False)], None, {}),
     "deepseek3": ("byte", N.Sequence([]), seq(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), bl()), D.ByteLevel(), special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>") + [S("<｜User｜>", normalized=False)], ("<｜begin▁of▁sentence｜>", None), {}),
     "tekken": ("byte", None, seq(split(TEKKEN), bl()), D.ByteLevel(), special("<s>", "[INST]", "[/INST]"), ("<s>", None), {"ignore_merges": True}),
     "gpt4o": ("byte", None, seq(split(GPT4O), bl()), D.ByteLevel(), special("<|return|>", "<|call|>", "<|end|>"), None, {}),
     "cl100k": ("byte", None, seq(P.Split(Regex(CL100K), "removed", True), bl()), D.ByteLevel(), special("<|endoftext|>"), None, {}),
     "olmo": ("byte", N.NFC(), bl(False, True), D.ByteLevel(), special("<|endoftext|>") + [S(" " * k, normalized=True) for k in (2, 3, 4, 8)], None, {}),
     "granite": ("byte", None, seq(P.Digits(individual_digits=True), bl(False, True)), D.ByteLevel(), special("<|end_of_text|>"), None, {}),
     "falcon": ("byte", None, seq(P.Punctuation("contiguous"), bl(False, True), P.Digits(individual_digits=False), split("[0-9][0-9][0-9]")), D.ByteLevel(), special("<|endoftext|>"), None, {}),
     "bloom": ("byte", None, seq(split(BLOOM), bl()), D.ByteLevel(), special("<s>"), None, {}),
     "bytenorm": ("byte", N.Sequence([N.NFKC(), N.ByteLevel()]), None, D.ByteLevel(), [S("ünï", normalized=True), S("x y", normalized=True)], None, {}),
     "llama2": ("spm", LLAMA_NORM(), None, spm_decoder(), special("<unk>", "<s>", "</s>"), ("<s>", None), {"fuse_unk": True}),
     "phi3": ("spm", LLAMA_NORM(), None, spm_decoder(), special("<unk>", "<s>") + special("</s>", "<|user|>", "<|end|>", "<|assistant|>", rstrip=True), ("<s>", None), {"fuse_unk": True}),
     "mistral": ("spm", None, P.Metaspace("▁", "first", split=False), spm_decoder(), special("<unk>", "<s>", "</s>", "[INST]"), ("<s>", "</s>"), {"fuse_unk": True}),
     "gemma": ("spm", N.Replace(" ", "▁"), P.Split(" ", "merged_with_previous", False), spm_decoder(False), special("<bos>", "<eos>", "<start_of_turn>") + [S("\n" * k, normalized=False) for k in (1, 2, 3, 5)] + [S("▁▁", normalized=False), S("<table>", normalized=False)], ("<bos>", None), {"fuse_unk": True}),
     "metaspace": ("spm", None, P.Metaspace("▁", "always", split=True), D.Metaspace("▁", "always", split=True), special("<s>", "</s>"), None, {}),
     "metaspace_first": ("spm", N.NFKC(), P.Metaspace("▁", "first", split=True), D.Metaspace("▁", "first"), special("<s>", "</s>"), ("<s>", None), {}),
     "metaspace_never": ("spm", None, P.Metaspace("▁", "never", split=True), D.Metaspace("▁", "never"), special("<s>"), None, {}),
     "no_fallback": ("char", LLAMA_NORM(), None, spm_decoder(), special("<unk>", "<s>"), None, {"unk_token": "<unk>", "fuse_unk": True}),
     "unk_single": ("char", None, P.Whitespace(), None, special("<unk>"), None, {"unk_token": "<unk>"}),
     "dropped": ("char", N.Strip(), P.WhitespaceSplit(), None, [], None, {}),
     "lower": ("char", N.Sequence([N.NFD(), N.Lowercase(), N.StripAccents(), N.Strip(True, False)]), P.Whitespace(), None, torture + special("<unk>"), None, {"unk_token": "<unk>"}),
     "punct": ("char", N.NFKD(), seq(P.Punctuation("merged_with_previous"), P.Digits(True), P.WhitespaceSplit()), None, torture, None, {}),
     "replace": ("spm", N.Sequence([N.Replace(Regex(r" {2,}"), " "), N.Replace(Regex(r"\s"), "▁"), N.Replace("``", '"')]), P.Split("▁", "merged_with_next", False), D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()]), torture + special("<s>"), ("<s>", "<s>"), {}),
     "words": ("byte", None, seq(split(r"\b\w+\b|\W", "isolated"), split(r"(?<=a)b|(?i)X{1,2}+$".replace("(?i)", ""), "contiguous"), bl()), D.ByteLevel(), [], None, {}),
    }
    for b in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            f[f"split_{b}{'_not' if invert else ''}"] = ("byte", None, seq(P.Split(Regex(r"\s|[a-e]+|,"), b, invert), bl()), D.ByteLevel(), [], None, {})
    return f

def build(name, vocab):
    kind, norm, pre, dec, added, post, opts = families()[name]
    options = dict(opts)
    if kind == "spm": options.update(byte_fallback=True, unk_token="<unk>")
    t = Tokenizer(models.BPE(**{k: v for k, v in options.items()}))
    if norm: t.normalizer = norm
    if pre: t.pre_tokenizer = pre
    if dec: t.decoder = dec
    if kind == "byte":
        tr = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=P.ByteLevel.alphabet(), show_progress=False, max_token_length=24)
    elif kind == "spm":
        base = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
        tr = trainers.BpeTrainer(vocab_size=vocab, special_tokens=base, show_progress=False, max_token_length=16, limit_alphabet=110)
    else:
        tr = trainers.BpeTrainer(vocab_size=vocab - 250, special_tokens=["<unk>"], show_progress=False, max_token_length=16, limit_alphabet=90)
    t.train(FILES, tr)
    s = json.loads(t.to_str())
    s["added_tokens"] = []
    t = Tokenizer.from_str(json.dumps(s))
    t.add_tokens(added)
    if post == "roberta":
        t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))
    elif post:
        before, after = post
        single = " ".join(x for x in (before, "$A", after) if x)
        tp = processors.TemplateProcessing(single=single, special_tokens=[(x, t.token_to_id(x)) for x in {before, after} if x])
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), tp]) if name == "llama3" else tp
    return t

POOLS = [
    list("abcdefghij ABCXYZ 0123456789 .,!?'\"()[]{}<>/\\|-_=+*&^%$#@~`:;"),
    [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\t\t", "\u00a0", "\u3000", "\u2003", "\u0085", "\u2028", "\u200b", "\u180e", "\ufeff", "\x0b", "\x0c", "\u1680", "\u205f"],
    "the and of to in License program's I'll WE'VE don't can'T naïve café Ångström ſ K func(x) == 1234567 3.14 0x1F foo_bar fooBar HTTPServer New York new york lonely Raw Case".split(" "),
    ["你好", "世界", "今天天气", "こんにちは", "カタカナ", "한국어", "Привет", "мир", "עברית", "العربية", "हिन्दी", "ไทย", "Ελληνικά", "ß", "ẞ", "ǅ", "İ", "ı", "Ǆ", "ﬁ", "½", "²", "Ⅷ", "①", "١٢٣", "ᾳ", "ΐ"],
    ["é", "e\u0301", "a\u0316\u0301", "\u0301", "\u0301\u0316\u0327", "ạ̈", "가", "\u1100\u1161\u11a8", "Å", "Å", "ﷺ", "\u0344", "\u0f73", "క్ష"],
    ["🤦🏽\u200d♂️", "👩\u200d👩\u200d👧\u200d👦", "🇫🇷", "🐉", "❤️", "𝔘𝔫𝔦", "🂡", "Ⓐ", "🅰"],
    ["<s>", "</s>", "<unk>", "<mask>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>", "[INST]", "<bos>", "<table>", "<tool_call>", "<|user|>", "<|end|>",
     "<0x41>", "[LEFT]", "[RIGHT]", "[BOTH]", "<｜User｜>", "▁", "▁▁", "``", "ünï", "x y", "\n\n\n\n\n", "Ġ", "<｜begin▁of▁sentence｜>", "\x00", "\x01", "\x7f"],
    ["def f(x):\n    return x + 1\n", "#include <stdio.h>\n", "{\"a\": [1, 2.5e-3]}", "http://example.com/a?b=c&d=e#f", "<div class=\"x\">", "SELECT * FROM t;", "\\section{a}"],
]
def old(c):  # only characters that every Unicode version in play (8 to 16, by library) knows alike
    return c if unicodedata.ucd_3_2_0.category(c) != "Cn" else ""
def random_text(r):
    out = []
    for _ in range(r.choice([1, 1, 2, 3, 5, 8, 13, 30])):
        p = r.random()
        if p < 0.06: out.append(old(chr(r.choice([r.randrange(0x20, 0x250), r.randrange(0x250, 0x2000), r.randrange(0x2000, 0x3100)]))))
        elif p < 0.10: out.append(r.choice("aA1 \n!é語🐉") * r.randrange(2, 40))
        else: out.append(r.choice(r.choice(POOLS)))
        if r.random() < 0.3: out.append(" ")
    return "".join(out)
def cases(t, r, n):
    enc, dec = [], []
    for _ in range(n):
        text = random_text(r)
        flags = r.choice([0, 1, 2, 3, 3, 3])
        t.encode_special_tokens = not flags & 2
        ids = t.encode(text, add_special_tokens=bool(flags & 1)).ids
        enc.append([text, flags, ids])
        if r.random() < 0.5:
            ids = [r.randrange(t.get_vocab_size()) for _ in range(r.randrange(1, 9))]
        skip = r.random() < 0.5
        out = t.decode(ids, skip_special_tokens=skip)
        if "\ufffd" not in out: dec.append([ids, skip, out])   # faults are replaced differently, on purpose
    return {"encode": enc, "decode": dec}

def main():
    a = argparse.ArgumentParser()
    a.add_argument("out"); a.add_argument("--texts", type=int, default=40); a.add_argument("--seed", type=int, default=1)
    a.add_argument("--vocab", type=int, default=420); a.add_argument("--only", default="")
    a = a.parse_args()
    os.makedirs(a.out, exist_ok=True)
    for name in families():
        if a.only and name not in a.only.split(","): continue
        t = build(name, a.vocab)
        with open(f"{a.out}/{name}.tokenizer.json", "w") as f: json.dump(json.loads(t.to_str()), f, ensure_ascii=False, separators=(",", ":"))
        with open(f"{a.out}/{name}.cases.json", "w") as f: json.dump(cases(t, random.Random(f"{a.seed} {name}"), a.texts), f, ensure_ascii=False, separators=(",", ":"))

if __name__ == "__main__": main()
