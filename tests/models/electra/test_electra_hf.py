"""Hugging Face folders import and export with equal outputs; a run can start from another's weights and moments."""

import json

import pytest
import torch
import transformers
import yaml
from small_electra import SMALL, V, masked_batch, small_config

from lmrecipes.checkpoints.io import load_checkpoint, newest_readable
from lmrecipes.data.tokenizers.wordpiece import SPECIAL, WordPiece
from lmrecipes.models.electra import Electra, ElectraReader, ReaderConfig, hf

pytestmark = pytest.mark.filterwarnings("ignore")
VOCABULARY = WordPiece([*SPECIAL, *(f"w{i}" for i in range(V - len(SPECIAL)))])
READER = {**SMALL, "dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.2}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Electra(small_config()).eval()


def padded(batch):
    real = (torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]).long()
    return {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids, "attention_mask": real}, real.bool()


def test_transformers_loads_both_networks_with_equal_outputs(network, tmp_path):
    paths = hf.write_pretraining(network, tmp_path, VOCABULARY)
    assert [path.name for path in paths] == ["discriminator", "generator"]
    inputs, real = padded(masked_batch())
    batch = masked_batch()
    discriminator = transformers.AutoModelForPreTraining.from_pretrained(paths[0]).eval()
    generator = transformers.AutoModelForMaskedLM.from_pretrained(paths[1]).eval()
    assert discriminator.config.model_type == "electra"
    encoder = transformers.AutoModel.from_pretrained(paths[0])
    torch.testing.assert_close(encoder.embeddings.word_embeddings.weight, generator.generator_lm_head.weight)
    packing = hf.Packing.of(batch.lengths, torch.device("cpu"))
    ids, types = packing.pack(batch.input_ids), packing.pack(batch.token_type_ids)
    with torch.no_grad():
        ours = network.discriminator_logits(ids, types, packing)
        torch.testing.assert_close(discriminator(**inputs).logits[real], ours)
        ours = network.generator_logits(ids, types, packing, torch.arange(len(ids)))
        torch.testing.assert_close(generator(**inputs).logits[real], ours)
    tokenizer = transformers.AutoTokenizer.from_pretrained(paths[0])
    words = [2, 7, 9, 3]
    assert tokenizer("w2 W4")["input_ids"] == words
    assert tokenizer.model_max_length == SMALL["max_positions"]


def test_pretraining_can_start_from_published_folders(network, tmp_path):
    paths = hf.write_pretraining(network, tmp_path, VOCABULARY)
    other = Electra(small_config())
    hf.load_pretraining(other, hf.Pretrained(discriminator=str(paths[0]), generator=str(paths[1])))
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"d_ff": 128}, "its intermediate_size is 64, but model.config.d_ff makes 128"),
        ({"vocab_multiple": 8}, "its vocab_size is 60, but model.config.n_embeddings makes 64"),
    ],
)
def test_a_folder_of_another_size_is_rejected_with_the_field(network, tmp_path, sizes, words):
    hf.write_pretraining(network, tmp_path, VOCABULARY)
    with pytest.raises(ValueError, match=words):
        hf.load_reader(ElectraReader(ReaderConfig(**{**READER, **sizes})), str(tmp_path / "discriminator"))


def test_swapped_or_missing_folders_are_rejected_in_one_line(network, tmp_path):
    paths = hf.write_pretraining(network, tmp_path, VOCABULARY)
    swapped = hf.Pretrained(discriminator=str(paths[1]), generator=str(paths[0]))
    with pytest.raises(ValueError, match=r"model.pretrained.generator .*hidden_size"):
        hf.load_pretraining(Electra(small_config()), swapped)
    with pytest.raises(ValueError, match=r"model.pretrained nowhere/at/all cannot be used"):
        hf.load_reader(ElectraReader(ReaderConfig(**READER)), "nowhere/at/all")


def test_a_reader_loads_a_published_encoder_and_its_head_if_present(network, tmp_path):
    hf.write_pretraining(network, tmp_path, VOCABULARY)
    torch.manual_seed(1)
    reader = ElectraReader(ReaderConfig(**READER))
    head = reader.head.outputs.weight.clone()
    hf.load_reader(reader, str(tmp_path / "discriminator"))
    for name, value in network.discriminator.state_dict().items():
        assert torch.equal(reader.electra.state_dict()[name], value), name
    assert torch.equal(reader.head.outputs.weight, head)
    (path,) = hf.write_reader(reader.eval(), tmp_path / "answers", VOCABULARY)
    again = ElectraReader(ReaderConfig(**READER)).eval()
    hf.load_reader(again, str(path))
    assert torch.equal(again.head.outputs.weight, head)
    inputs, real = padded(masked_batch())
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(path).eval()
    batch = masked_batch()
    n = len(batch.lengths)
    with torch.no_grad():
        theirs = model(**inputs)
        ours = again(
            batch.input_ids,
            batch.token_type_ids,
            batch.lengths,
            real,
            *(torch.zeros(n).long(),) * 2,
            torch.zeros(n),
        )
    for actual, expected in zip(ours.logits, (theirs.start_logits, theirs.end_logits), strict=True):
        torch.testing.assert_close(actual[real], expected[real])


def test_a_joint_head_cannot_be_exported_to_transformers(tmp_path):
    with pytest.raises(ValueError, match=r"joint head google; --format state_dict writes it"):
        hf.write_reader(ElectraReader(ReaderConfig(**READER, head="google")), tmp_path, VOCABULARY)


# Runs of small networks on generated text, in this process.

TINY = {"d_embedding": 16, "d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 64, "generator_d_head": 8}


def options(folder, **config):
    sizes = [f"--model.config.{name}={value}" for name, value in config.items()]
    return [
        *sizes,
        f"--data.cache_dir={folder}/cache",
        *("--batch.global_batch_size=4", "--batch.val.batch_size=4", "--batch.test.batch_size=4"),
        *("--trainer.val_check_interval=2", "--trainer.num_sanity_val_steps=0", "--trainer.limit_val_batches=1"),
        *("--trainer.log_every_n_steps=1", "--no_runtime_tuning"),
    ]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run of four LAMB steps of two micro-batches, with its folder and that of its text."""
    from lmrecipes.__main__ import main
    from lmrecipes.data.corpora.synthetic_text import write_synthetic

    folder = tmp_path_factory.mktemp("pretrained")
    write_synthetic(folder / "lines")
    lines = (folder / "lines" / "train.txt").read_text().splitlines()
    (folder / "text.txt").write_text("\n\n".join("\n".join(lines[i : i + 5]) for i in range(0, len(lines), 5)))
    words = [
        *("fit", "--config", "electra/tiny_pretrain", "--data", "documents_folder"),
        *(f"--data.paths.mine={folder}/text.txt", "--data.wordpiece.vocab_size=400", "--data.held_out=0.2"),
        *("--model.optimizer=lmrecipes.optim.LAMB", "--model.optimizer.lr=0.01", "--batch.seq_len=24"),
        *("--model.groups.trust_norms_and_biases=false", "--model.schedule.warmup_share=0.5"),
        *options(folder, **TINY),
    ]
    assert main([*words, f"--run_dir={folder}/one", "--trainer.max_steps=4", "--batch.micro_batch_size=2"]) == 0
    return folder, words


def last(run):
    return load_checkpoint(newest_readable(run / "checkpoints", "last-*.ckpt"))


@pytest.mark.slow
def test_phase_two_starts_with_the_weights_and_moments_of_phase_one_and_a_new_schedule(pretrained, monkeypatch):
    from lmrecipes.__main__ import main
    from lmrecipes.callbacks import InitWeights

    folder, words = pretrained
    seen = {}
    begin = InitWeights.on_fit_start

    def look(self, trainer, module):
        begin(self, trainer, module)
        (optimizer,) = trainer.optimizers
        names = {id(p): name for name, p in module.named_parameters()}
        seen["states"] = {
            names[id(p)]: {key: value.clone() for key, value in state.items()} for p, state in optimizer.state.items()
        }
        seen["weights"] = {name: value.clone() for name, value in module.state_dict().items()}
        seen["step"], seen["lr"] = trainer.global_step, optimizer.param_groups[0]["lr"]

    monkeypatch.setattr(InitWeights, "on_fit_start", look)
    two = ["--batch.seq_len=48", "--trainer.max_steps=3", "--trainer.val_check_interval=100"]
    begin_with = [f"--init_from={folder}/one", "--init_optimizer=true"]
    assert main([*words, *two, *begin_with, f"--run_dir={folder}/two"]) == 0
    first = last(folder / "one")
    for name, value in first["state_dict"].items():
        assert torch.equal(seen["weights"][name], value), name
    (state,), (names,) = first["optimizer_states"], first["optimizer_parameters"]
    assert len(names) == len(seen["states"]) == len(state["state"]) > 50
    for index, name in enumerate(names):
        for key, value in state["state"][index].items():
            assert torch.equal(seen["states"][name][key], value), (name, key)
            assert value.any() or "exp_avg" in key
    # The first of two warm-up steps.
    assert (seen["step"], seen["lr"]) == (0, pytest.approx(0.01 / 2))
    assert last(folder / "two")["global_step"] == 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--init_optimizer=true"], "--init_from RUN"),
        (["--init_from=one", "--init_optimizer=true", "--model.optimizer=torch.optim.AdamW"], "model.optimizer is"),
    ],
)
def test_incompatible_moments_are_rejected(pretrained, more, words, capsys):
    from lmrecipes.__main__ import main

    folder, fit = pretrained
    more = [option.replace("=one", f"={folder}/one") for option in more]
    assert main([*fit, *more, f"--run_dir={folder}/refused"]) == 2
    assert words in capsys.readouterr().err


def test_a_run_is_exported_as_folders_with_its_own_tokenizer(pretrained, capsys):
    from lmrecipes.__main__ import main

    folder, _ = pretrained
    assert main(["export", f"--run={folder}/one", "--format=hf"]) == 0, capsys.readouterr().err
    loaded = transformers.AutoModelForPreTraining.from_pretrained(folder / "one/exported/discriminator")
    saved = last(folder / "one")["state_dict"]
    best = load_checkpoint(newest_readable(folder / "one/checkpoints", "best-*.ckpt"))["state_dict"]
    weight = loaded.electra.embeddings.word_embeddings.weight
    assert any(torch.equal(weight, s["network.discriminator.embeddings.word_embeddings.weight"]) for s in (saved, best))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "one/exported/generator")
    assert len(tokenizer) == loaded.config.vocab_size
    assert main(["export", f"--run={folder}/one", "--format=state_dict"]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_fine_tuning_on_questions_uses_the_pretrained_runs_vocabulary(pretrained, capsys):
    from lmrecipes.__main__ import main
    from lmrecipes.datamodules import SquadDataModule

    folder, _ = pretrained
    data = SquadDataModule.__new__(SquadDataModule)
    data.files, data.null_threshold = dict.fromkeys(("train", "val", "test")), 0.0
    data.write_synthetic(folder / "questions")
    sizes = {name: value for name, value in TINY.items() if not name.startswith("generator")}
    files = [f"--data.{split}={folder}/questions/{split}.json" for split in ("train", "val", "test")]
    words = [
        *("fit", "--config", "electra/tiny_squad", *files, "--data.max_query_len=16", "--data.doc_stride=16"),
        *("--batch.seq_len=64", "--trainer.max_steps=2", f"--init_from={folder}/one", *options(folder, **sizes)),
    ]
    assert main([*words, f"--run_dir={folder}/reader"]) == 0, capsys.readouterr().err
    config = yaml.safe_load((folder / "reader/config.yaml").read_text())
    assert config["data"]["init_args"]["vocabulary_dir"] == str(folder / "one/vocabulary")
    same = [(folder / run / "vocabulary/vocabulary.json").read_text() for run in ("one", "reader")]
    assert same[0] == same[1]
    assert main(["test", f"--run={folder}/reader"]) == 0, capsys.readouterr().err
    assert "squad/exact_match" in capsys.readouterr().out
    arguments = ["predict", f"--run={folder}/reader", "--question=Who has what?", "--context=Ada has three ships."]
    assert main(arguments) == 0, capsys.readouterr().err
    answer = capsys.readouterr().out.splitlines()[0]
    assert answer == "no answer" or answer in arguments[-1]
    assert not (folder / "reader/answers/predict").exists()
    assert main(["predict", f"--run={folder}/reader", f"--file={folder}/questions/test.json"]) == 0
    written = json.loads((folder / "reader/answers/predict/test/predictions.json").read_text())
    paragraphs = json.loads((folder / "questions/test.json").read_text())["data"][0]["paragraphs"]
    assert set(written) == {qa["id"] for paragraph in paragraphs for qa in paragraph["qas"]}
    paragraphs[0]["qas"][0]["answers"] = [{"text": "nowhere", "answer_start": 0}]
    (folder / "broken.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    broken = ["predict", f"--run={folder}/reader", f"--file={folder}/broken.json"]
    assert main(broken) == 2
    assert main([*broken, "--data.on_malformed=skip"]) == 0, capsys.readouterr().err
    assert "1 skipped" in capsys.readouterr().err
    assert main(["predict", f"--run={folder}/reader", "--question=Who?"]) == 2
    assert "--context is missing" in capsys.readouterr().err
    assert main(["export", f"--run={folder}/reader", "--format=state_dict"]) == 0, capsys.readouterr().err
    # Size mismatches are named.
    assert main([*words, f"--run_dir={folder}/refused", "--model.config.d_ff=32"]) == 2
    assert "network.electra.encoder.layer.0.intermediate.dense.weight has shape" in capsys.readouterr().err
