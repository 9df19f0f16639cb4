"""The recipe of configs/easy_vqa_*.yaml in PyTorch + transformers: what a user would write instead.

Reads the same configurations, data, tokenizer and pictures, builds LlavaForConditionalGeneration of the same sizes, trains
it through the same phases (samples, templates, batch sizes, schedule, changes to pictures; samples of a batch are padded
to its longest), then asks all held-out questions as `neva eval` does. One JSON line a phase, one at the end.

  easy_vqa.py --threads 2 configs/easy_vqa_captions.yaml configs/easy_vqa.yaml [--scale 0.1]

--scale takes so many of each phase's steps. Weights start as transformers starts them, with the configuration's standard
deviation.
"""
import argparse, json, math, pathlib, random, re, time
import numpy, torch, yaml
import sentencepiece
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

MEAN = numpy.array([0.48145466, 0.4578275, 0.40821073], numpy.float32)
STD = numpy.array([0.26862954, 0.26130258, 0.27577711], numpy.float32)
SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
          "and polite answers to the user's questions.")
IGNORE = -100

a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("configs", nargs="+", type=pathlib.Path)
a.add_argument("--threads", type=int, default=2)
a.add_argument("--scale", type=float, default=1.0)
o = a.parse_args()
torch.set_num_threads(o.threads)
phases = [yaml.safe_load(path.read_text()) for path in o.configs]
born = phases[0]["model"]
tower = born["mm_cfg"]["vision_encoder"]
size, patch = tower["crop_size"][0], tower["patch_dim"]
rows = (size // patch) ** 2

pieces = sentencepiece.SentencePieceProcessor(model_file=born["tokenizer"]["model"])
bos, eos, image_token = pieces.bos_id(), pieces.eos_id(), pieces.piece_to_id("<extra_id_3>")  # NeMo's name for it
vocabulary = -(-pieces.get_piece_size() // 128) * 128


def encode(template, turns):
    """ids, and labels for the answers; the last answer may be None. Texts around an image are encoded by themselves."""
    ids, labels = [bos], [IGNORE]

    def add(text, supervised=False, end=()):
        new = pieces.encode(text) if isinstance(text, str) else list(text)
        new += end
        ids.extend(new)
        labels.extend(new if supervised else [IGNORE] * len(new))

    if template == "plain":
        add([image_token] * rows)
        add(turns[0][1] + "\n", True)
        return ids, labels
    before = SYSTEM + " "
    for question, answer in turns:
        parts = re.split(r"<image>", "USER: " + question + " ASSISTANT:")
        add(before + parts[0])
        for part in parts[1:]:
            add([image_token] * rows)
            add(part)
        before = ""
        if answer is not None:
            add(answer, True, [eos])
    return ids, labels


def records(path):
    out = []
    for record in json.loads(pathlib.Path(path).read_text()):
        said = [turn["value"] for turn in record["conversations"]]
        out.append((record["image"], list(zip(said[::2], said[1::2]))))
    return out


pictures = {}


def picture(folder, name):
    if name not in pictures:
        image = Image.open(pathlib.Path(folder) / name).convert("RGB")
        assert image.size == (size, size), "the recipe's pictures have the tower's size"
        pictures[name] = numpy.asarray(image)
    return pictures[name]


def changed(rgb, flip, shift):
    if flip and random.random() < 0.5:
        rgb = rgb[:, ::-1]
    if shift:
        down, right = random.randint(-shift, shift), random.randint(-shift, shift)
        padded = numpy.pad(rgb, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
        rgb = padded[shift - down:shift - down + size, shift - right:shift - right + size]
    return rgb


def pixels(images):
    scaled = (numpy.stack(images).astype(numpy.float32) / 255 - MEAN) / STD
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())


def batch(samples, left=False):
    longest = max(len(ids) for ids, _ in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for i, (sample, label) in enumerate(samples):
        at = slice(longest - len(sample), longest) if left else slice(0, len(sample))
        ids[i, at], mask[i, at], labels[i, at] = torch.tensor(sample), 1, torch.tensor(label)
    return ids, mask, labels


def rate(step, steps, optim):
    warm = optim["sched"]["warmup_steps"]
    high, low = float(optim["lr"]), float(optim["sched"]["min_lr"])  # PyYAML takes 1e-3 for a word
    if step <= warm:
        return high * (step + 1) / (warm + 1)
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


torch.manual_seed(born["seed"])
random.seed(born["seed"])
model = LlavaForConditionalGeneration(LlavaConfig(
    vision_config=CLIPVisionConfig(
        hidden_size=tower["hidden_size"], num_hidden_layers=tower["num_layers"],
        num_attention_heads=tower["num_attention_heads"], intermediate_size=tower["ffn_hidden_size"], image_size=size,
        patch_size=patch, projection_dim=tower["hidden_size"]),
    text_config=LlamaConfig(
        hidden_size=born["hidden_size"], num_hidden_layers=born["num_layers"],
        num_attention_heads=born["num_attention_heads"], intermediate_size=born["ffn_hidden_size"],
        vocab_size=vocabulary, max_position_embeddings=born["encoder_seq_length"], tie_word_embeddings=False,
        initializer_range=born["init_method_std"]),
    image_token_index=image_token, image_seq_length=rows, vision_feature_layer=tower["vision_select_layer"])).float()

begin, begin_cpu = time.perf_counter(), time.process_time()
for path, phase in zip(o.configs, phases):
    start, m = time.perf_counter(), phase["model"]
    template, optim, data = m["mm_cfg"]["llm"]["model_type"], m["optim"], m["data"]
    frozen = {"vision_tower": m["mm_cfg"]["vision_encoder"]["freeze"], "language_model": m["mm_cfg"]["llm"]["freeze"]}
    for name, p in model.named_parameters():
        p.requires_grad_(not any(part in name and off for part, off in frozen.items()))
    decay, free = [], []
    for p in model.parameters():
        if p.requires_grad:
            (decay if p.dim() > 1 else free).append(p)
    adam = torch.optim.AdamW(
        [{"params": decay, "weight_decay": optim.get("weight_decay", 0.0)}, {"params": free, "weight_decay": 0.0}],
        lr=1.0, betas=tuple(optim["betas"]), fused=True)
    samples = [(image, encode(template, turns)) for image, turns in records(data["data_path"])]
    steps, size_of_batch = max(1, round(phase["trainer"]["max_steps"] * o.scale)), m["global_batch_size"]
    model.train()
    order, total = [], 0.0
    for step in range(steps):
        if len(order) < size_of_batch:
            order = random.sample(range(len(samples)), len(samples))
        chosen, order = [samples[i] for i in order[:size_of_batch]], order[size_of_batch:]
        ids, mask, labels = batch([sample for _, sample in chosen])
        images = [changed(picture(data["image_folder"], name), data.get("image_flip"), data.get("image_shift"))
                  for name, _ in chosen]
        loss = model(input_ids=ids, attention_mask=mask, pixel_values=pixels(images), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decay + free, phase["trainer"]["gradient_clip_val"])
        for group in adam.param_groups:
            group["lr"] = rate(step, steps, optim)
        adam.step()
        adam.zero_grad(set_to_none=True)
        total += loss.item()
        if (step + 1) % 100 == 0:
            print(f"{path.stem} step {step + 1}/{steps} loss {total / 100:.4f} {time.perf_counter() - start:.0f} s", flush=True)
            total = 0.0
    print(json.dumps({"phase": path.stem, "steps": steps, "seconds": round(time.perf_counter() - start, 1)}), flush=True)

trained, trained_cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
model.eval()
asked = [(image, question.replace("<image>\n", ""), answer)
         for image, turns in records(data["validation_data_path"]) for question, answer in turns]
right = 0
with torch.no_grad():
    for i in range(0, len(asked), 128):
        group = asked[i:i + 128]
        ids, mask, _ = batch([encode("v1", [("<image>\n" + question, None)]) for _, question, _ in group], left=True)
        images = pixels([picture(data["image_folder"], image) for image, _, _ in group])
        out = model.generate(input_ids=ids, attention_mask=mask, pixel_values=images, do_sample=False, max_new_tokens=16,
                             eos_token_id=eos, pad_token_id=eos)
        for (_, _, answer), new in zip(group, out[:, ids.shape[1]:].tolist()):
            new = new[:new.index(eos)] if eos in new else new
            right += pieces.decode(new).strip().lower() == answer.lower()
print(json.dumps({"accuracy": right / len(asked), "correct": right, "questions": len(asked), "threads": o.threads,
                  "train_seconds": round(trained, 1), "train_cpu_seconds": round(trained_cpu, 1),
                  "seconds": round(time.perf_counter() - begin, 1), "torch": torch.__version__}), flush=True)
