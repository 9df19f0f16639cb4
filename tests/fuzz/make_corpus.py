"""Makes the fuzzer's seeds in corpus/: small files of every kind that the parsers read, and of kinds they refuse.

    python3 tests/fuzz/make_corpus.py

Pictures and byte-level tokenizers come from tests/golden and tests/tokenizer; the rest is written here. Files that a
campaign found lie beside the seeds and are called found-*; they are kept.
"""

import json
import struct
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"


def seed(target, name, data):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def tensors(header, data=b""):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text)) + text + data


def images():
    blob = (HERE.parent / "golden/images.safetensors").read_bytes()
    size = struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8 : 8 + size])
    names = ["grey_16_interlaced_3x2", "grey_1_interlaced_13x9", "grey_8_transparent", "palette_4_interlaced_3x2"]
    names += ["grey_alpha_8_plain_1x1", "palette_2_plain_13x9", "rgb_16_interlaced_3x2", "rgba_8_plain_13x9"]
    names = [f"png/{n}" for n in names]
    names += [f"jpeg/{n}" for n in ["420_progressive", "420_restarts", "444_one_pixel", "cmyk", "grey", "ycck"]]
    for name in names:
        start, end = header[f"{name}/file"]["data_offsets"]
        seed("image", name.replace("/", "-"), blob[8 + size + start : 8 + size + end])
    seed("image", "gif", b"GIF89a\1\0\1\0\0\0\0;")


def weights():
    f32 = lambda *values: struct.pack(f"<{len(values)}f", *values)
    entry = lambda dtype, shape, start, end: {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    seed("safetensors", "two", tensors({"a": entry("F32", [2], 0, 8), "weight": entry("F32", [1, 1], 8, 12)}, f32(1, 2, 3)))
    seed("safetensors", "types", tensors({"a": entry("BF16", [2, 2], 0, 8), "b": entry("I64", [1], 8, 16)}, bytes(16)))
    seed("safetensors", "metadata", tensors({"__metadata__": {"format": "pt"}, "a": entry("F16", [0], 0, 0)}))
    seed("safetensors", "overlap", tensors({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)))
    seed("safetensors", "shape", tensors({"a": entry("F32", [1 << 40, 1 << 40], 0, 8)}, bytes(8)))
    seed("safetensors", "twice", tensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)))
    seed("safetensors", "nested", tensors(b'{"a":' + b"[" * 200, bytes(8)))


def varint(n):
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece():
    def model(trainer=b"", normalizer=b"", extra=()):
        pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<image>", 0.0, 4), *extra]
        pieces += [("ab", -1.0, 1), ("▁a", -2.0, 1), ("a", -3.0, 1), ("b", -4.0, 1), ("▁", -5.0, 1)]
        out = b"".join(field(1, field(1, t) + field(2, s) + field(3, k)) for t, s, k in pieces)
        return out + field(2, field(3, 2) + trainer) + field(3, field(1, "identity") + normalizer)

    every_byte = [(f"<0x{b:02X}>", 0.0, 6) for b in range(256)]
    seed("sentencepiece", "small", model())
    seed("sentencepiece", "spaces", model(normalizer=field(3, 0) + field(4, 0)))
    seed("sentencepiece", "bytes", model(trainer=field(35, 1), extra=every_byte))
    seed("sentencepiece", "unigram", model().replace(field(3, 2) + b"", field(3, 1)))
    seed("sentencepiece", "map", model(normalizer=field(2, b"\1\2\3")))
    seed("sentencepiece", "group", b"\x0b\x0c")


def tokenizer_json():
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "▁", "a", "b", "ab", "▁a", "1", "<image>"])}
    spaced = {
        "added_tokens": [
            {"id": 1, "content": "<s>", "special": True},
            {"id": 8, "content": "<image>", "special": False, "normalized": False, "lstrip": True, "rstrip": True},
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", ["▁", "a"]], "unk_token": "<unk>", "fuse_unk": True},
    }
    dump = lambda value: json.dumps(value, ensure_ascii=False)
    seed("tokenizer_json", "spaced", dump(spaced))
    metaspace = spaced | {"normalizer": None, "added_tokens": spaced["added_tokens"][:1],
                          "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}}
    seed("tokenizer_json", "metaspace", dump(metaspace))
    seed("tokenizer_json", "wordpiece", dump(spaced | {"model": {"type": "WordPiece", "vocab": vocab}}))
    seed("tokenizer_json", "gap", dump(spaced | {"model": spaced["model"] | {"vocab": {"a": 0, "b": 4000000000}}}))
    for name in ["gpt2", "llama3"]:
        text = (HERE.parent / f"tokenizer/{name}.tokenizer.json").read_text()
        seed("tokenizer_json", name, json.dumps(json.loads(text), separators=(",", ":")))


def config():
    tiny = """model:
  num_layers: 2
  hidden_size: 64
  ffn_hidden_size: 160
  num_attention_heads: 4
"""
    seed("config", "tiny", tiny)
    seed("config", "words", tiny + "\x1emodel.optim.lr=1e-3\x1e+model.bias=true\x1e~model.num_layers\x1e++trainer.precision=32")
    seed("config", "interpolation", tiny + "  seed: ${multiply:${.num_layers}, 3}\n  max_position_embeddings: ${model.encoder_seq_length}\n  encoder_seq_length: ${oc.env:NEVA_NONE,${int_div:8192,-3}}\n")
    seed("config", "everything", tiny + "  optim: {betas: [0.9, .99], eps: 1.e-8, sched: {min_lr: 0}}\n  data: {data_path: [a.json, 'b.json'], image_folder: \"x\\u00e9\"}\n  mm_cfg: {mm_mlp_adapter_type: mlp2x_gelu, vision_encoder: {crop_size: [224, 224], vision_select_layer: -2}}\ntrainer: {precision: bf16-mixed, max_steps: 1_000, threads: 0x10}\nexp_manager: {name: 7}\n")
    seed("config", "aliases", "model: {seed: &a 1, tokenizer: &b {library: sentencepiece}, data: {data_path: [*a, *a]}, peft: *b}\n")
    seed("config", "laughs", "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n")
    seed("config", "block", "a:\n  - - - |\n        text\n      - >-\n        more\n    - ? x\n      : y\n--- \n!!map {}\n")
    seed("config", "tag", "model: !python/object:os.system [x]\n")


def records():
    human = lambda text: {"from": "human", "value": text}
    gpt = lambda text, **more: {"from": "gpt", "value": text, **more}
    one = {"id": "a", "image": "0.png", "conversations": [human("<image>\nWhat?"), gpt("red")]}
    seed("records", "one", json.dumps([one]))
    seed("records", "text", json.dumps([{"id": 7, "conversations": [gpt("left out"), human("q"), gpt("", label="quality:9")]}]))
    seed("records", "many", json.dumps([one, {"image": ["a", "b"], "system": "s", "conversations": [human("<image><image>"), gpt("x"), human("y"), gpt("z")]}]))
    seed("records", "wrong", json.dumps([one, {"conversations": [human("x"), human("y")]}]))
    seed("records", "object", json.dumps(one))
    seed("records", "nested", '[{"conversations": ' + "[" * 300)
    seed("records", "twice", '[{"id": 1, "id": 2, "conversations": []}]')


def model_json():
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    llama = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 384, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
             "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}
    nemotron = llama | {"model_type": "nemotron", "hidden_act": "relu2", "norm_eps": 1e-5, "head_dim": 8, "rope_parameters": None,
                        "partial_rotary_factor": 0.5}
    llava = {"model_type": "llava", "image_token_index": 7, "vision_feature_layer": -2, "projector_hidden_act": "gelu",
             "vision_config": vision, "text_config": llama}
    neva = llava | {"model_type": "neva", "text_config": nemotron | {"model_type": "neva"},
                    "neva": {"normalization": "layernorm1p", "gated": False, "projector_layers": 3, "im_start_id": 8, "im_end_id": 9}}
    for name, value in {"vision": vision, "llama": llama, "nemotron": nemotron, "llava": llava, "neva": neva}.items():
        seed("model_json", name, json.dumps(value))
    seed("model_json", "index", json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "x.safetensors", "b": "../y"}}))
    clip = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16},
            "image_mean": [0.48, 0.45, 0.40], "image_std": [0.26, 0.26, 0.27], "rescale_factor": 1 / 255, "resample": 3, "do_resize": True}
    seed("model_json", "preprocessor", json.dumps(clip))
    seed("model_json", "processor", json.dumps({"patch_size": 14, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 1}))


def trainer_state():
    seed("trainer_state", "good", '{"step": 5, "val_loss": 1.25, "loss": 2.5}\n')
    seed("trainer_state", "null", '{"step": 5, "val_loss": null, "loss": null}')
    seed("trainer_state", "wrong", '{"step": 5.0, "val_loss": "low"}')
    seed("trainer_state", "other", '{"step": 6}')


for make in [images, weights, sentencepiece, tokenizer_json, config, records, model_json, trainer_state]:
    make()
