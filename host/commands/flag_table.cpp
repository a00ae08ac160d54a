#include "commands/flag_table.h"

#include "commands/command_sets.h"

namespace cbtm {
namespace {

constexpr FlagKind kText = FlagKind::text, kList = FlagKind::list, kInteger = FlagKind::integer, kSeed = FlagKind::seed,
                   kNumber = FlagKind::number, kToggle = FlagKind::toggle;
constexpr const char* kNone = nullptr;  // no default

// clang-format off
constexpr Flag kFlags[] = {
    // group, name, alias, kind, value, default, commands, help
    {"", "what", "", kText, "train|encode|decode", kNone, kTokenizers, "what to do"},
    {"", "what", "", kText, "[generate|evaluate|prior|average]", "generate", kEnsembles, "what to do"},
    {"", "what", "", kText, "train|decode|cluster|device", kNone, kBenches | kBenchDevice | kBenchCluster, "what to measure: a training, decoding, balanced k-means, or what the device itself reaches"},
    {"", "path", "", kText, "PATH", kNone, kInspect, "a directory or file of any kind that cbtm reads or writes"},

    {"Run", "run", "out", kText, "DIR", "run", kClusterings, "the run directory"},
    {"Run", "run", "", kText, "DIR", "run", kTrainSeed, "the run directory, with tokenizer and shards"},
    {"Run", "run", "", kText, "DIR", "run", kTrainExpert, "the run directory, with seed and shards"},
    {"Run", "shard", "", kInteger, "N", kNone, kTrainExpert, "which shard, from 0"},
    {"Run", "baseline", "", kToggle, "", kNone, kTrainExpert, "the dense model on all shards"},
    {"Run", "all", "", kToggle, "", kNone, kTrainExpert, "the baseline and every shard"},
    {"Run", "redo", "", kToggle, "", kNone, kTrainings | kCluster, "make again what was made with other settings"},

    {"Model", "model", "", kText, "DIR", kNone, kOneModel, "a checkpoint directory"},
    {"Model", "model", "", kText, "DIR", kNone, kServe | kFewShot, "a checkpoint directory, instead of --experts"},
    {"Model", "tokenizer", "", kText, "DIR", kNone, kGenerate | kEvaluate, "its tokenizer (default: files beside the model)"},

    {"Experts", "experts", "", kText, "DIR", kNone, kEnsembles | kServe | kFewShot, "directory of expert directories"},
    {"Experts", "router", "", kText, "DIR", kNone, kServe, "default: the experts' own, else the run's"},
    {"Experts", "router-directory", "", kText, "DIR", kNone, kEnsembles | kFewShot, "the router's directory (default: the experts' own, else the run's)"},
    {"Experts", "tokenizer", "", kText, "DIR", kNone, kEnsembles | kServe | kFewShot, "default: the files beside the experts or the model"},
    {"Experts", "run", "", kText, "DIR", kNone, kEnsembles, "a run whose router and held-out documents to use (default: the one that the experts lie in)"},

    {"Experts", "run", "", kText, "DIR", kNone, kServe, "a run whose router, seed and baseline to use (default: the one that the experts lie in)"},

    {"Routing", "topk", "", kText, "N", "2", kServe, "experts that are mixed for a token, or all; requests may ask for others"},
    {"Routing", "coefficients", "", kText, "E=C,...", kNone, kEnsembleGenerate, "instead of routing: p(token) in proportion to the product of the experts' probabilities to these powers, for example 000=1,002=-0.5"},
    {"Routing", "router-temperature", "", kNumber, "T", kNone, kServe | kFewShot, "T of the weights exp(-distance^power / T) (default: the router's own)"},
    {"Routing", "router", "", kText, "KIND[:OPTION...],...", kNone, kMixing | kEnsembleAverage, "tfidf[:power=2|4][:temperature=T], posterior[:exact|last][:prior=uniform|updating|FILE][:first=kept|all] or uniform, the first two with topk=N too; evaluate: several in one pass (default: tfidf). A directory is taken as --router-directory, which is all that average takes"},
    {"Routing", "likelihood", "", kText, "WHAT", "last", kEnsemblePrior, "what a posterior stands on: last (the last token, as in the published program) or exact (all tokens so far)"},
    {"Routing", "topk", "", kText, "N", "2", kMixing | kFewShot, "experts that are mixed for a token; evaluate and fewshot: several, as 1,2,4,all, in one pass"},
    {"Routing", "router-temperature", "", kText, "T", kNone, kMixing, "T of the weights exp(-distance^power / T); a number, or tune: the best on the run's tune documents (default: the router's own)"},
    {"Routing", "distance-power", "", kInteger, "2|4", kNone, kMixing | kServe | kFewShot, "2, or 4 as the published code had it (default: the router's own)"},
    {"Routing", "routing", "", kText, "WHAT", "token", kMixing | kServe, "weights for each token, every:N tokens, fraction:R (of the text, then frozen), lagged (one token late) or prompt"},

    {"Task", "task", "", kText, "FILE", kNone, kFewShot, "task.json of a directory with the task's files (docs/few-shot.md); scripts/tasks/convert makes some"},
    {"Task", "shots", "", kInteger, "N", kNone, kFewShot, "demonstrations in a prompt (default: as the task says)"},
    {"Task", "seeds", "", kInteger, "N", kNone, kFewShot, "the first N of the task's seeds (default: all)"},
    {"Task", "test-lines", "", kInteger, "N", kNone, kFewShot, "the first N lines to score (default: all)"},
    {"Task", "mix", "", kText, "WHAT", "label", kFewShot, "of experts: probabilities of whole labels, weighed by the prompt (label), or of each token by the text before it (token)"},
    {"Task", "details", "", kText, "FILE", kNone, kFewShot, "write prompts, weights and scores here, one line per seed and test line"},

    {"Documents", "run", "", kText, "DIR", kNone, kEvaluate, "a run whose held-out documents to use; no </s> is put in front of a document, its first token is context only"},
    {"Documents", "split", "", kText, "NAME", kNone, kEvaluations, "which of them: valid (what results are reported on; default), tune (default of prior) or train"},
    {"Documents", "max-tokens", "", kInteger, "N", kNone, kEvaluations, "read at most this many tokens of a document (default: what the model was trained on)"},

    {"Corpus", "corpus", "", kList, "PATH...", kNone, kCorpora, "files, directories and pipes: JSON lines, JSON arrays, text, source; each also as gzip or zstd; - is stdin"},
    {"Corpus", "text-field", "", kText, "NAME", "text", kCorpora | kTokenizerEncode, "field of a JSON line that holds the text"},
    {"Corpus", "on-bad-document", "", kText, "WHAT", "skip", kCorpora, "skip (and count) or fail"},
    {"Corpus", "max-bad-fraction", "", kNumber, "P", "0.01", kCorpora, "of documents that are bad, or of bytes in files that cannot be read: more is an error"},
    {"Corpus", "max-document-bytes", "", kText, "SIZE", "64M", kCorpora, "longer documents are bad ones"},
    {"Corpus", "keep-duplicates", "", kToggle, "", kNone, kCorpora, "keep exact duplicates"},

    {"Tokenizer", "tokenizer", "", kText, "DIR", kNone, kClusterings, "take this one (vocab.json, merges.txt) instead of learning one"},
    {"Tokenizer", "vocab-size", "", kInteger, "N", "32768", kClusterings | kTokenizerTrain, "tokens to learn: special ones, 256 bytes, joined pairs"},
    {"Tokenizer", "min-frequency", "", kInteger, "N", "2", kClusterings | kTokenizerTrain, "do not join pairs seen less often"},
    {"Tokenizer", "out", "", kText, "DIR", kNone, kTokenizerTrain, "directory to write vocab.json and merges.txt to"},
    {"Texts", "tokenizer", "", kText, "DIR", kNone, kCodings, "directory with tokenizer.json, or vocab.json and merges.txt"},
    {"Texts", "input", "", kText, "FILE", kNone, kCodings, "encode: JSON lines with a text field; decode: lists of ids, one a line; - is stdin"},
    {"Texts", "output", "", kText, "FILE", kNone, kCodings, "where the result goes"},
    {"Texts", "no-bos", "", kToggle, "", kNone, kTokenizerEncode, "put no </s> (or what else the tokenizer has) around"},
    {"Texts", "no-special", "", kToggle, "", kNone, kTokenizerEncode, "special strings in the text are ordinary text"},
    {"Texts", "skip-special", "", kToggle, "", kNone, kTokenizerDecode, "leave special tokens out"},

    {"Clusters", "k", "", kInteger, "N", "8", kClusterings, "number of clusters, and so of experts (domains: as many as there are; a smaller number joins the smallest)"},
    {"Clusters", "clustering", "", kText, "KIND", "balanced", kClusterings, "balanced k-means, unbalanced (plain) k-means, random (a seeded partition into equal parts) or domains (those that the corpus names)"},
    {"Clusters", "domain-field", "", kText, "NAME", kNone, kClusterings, "domains: the field of a JSON line that names one (default: the first directory below the corpus path)"},
    {"Clusters", "dimensions", "", kInteger, "N", "100", kClusterings, "of the SVD that documents are compared in"},
    {"Clusters", "min-df", "", kInteger, "N", "1", kClusterings, "leave out terms of fewer documents"},
    {"Clusters", "fit-documents", "", kInteger, "N", "200000", kClusterings, "fit on at most this many documents (all are labelled)"},
    {"Clusters", "unbalanced", "", kToggle, "", kNone, kClusterings, "the same as --clustering unbalanced"},
    {"Clusters", "balance-shards", "", kToggle, "", kNone, kClusterings, "equal shards, instead of each document to its nearest centre"},
    {"Clusters", "kmeans-init", "", kText, "WHAT", "k-means++", kClusterings, "start of k-means: k-means++ or random rows"},
    {"Clusters", "restarts", "", kInteger, "N", "3", kClusterings, "starts of k-means; the best is kept"},
    {"Clusters", "valid-fraction", "", kNumber, "P", "0.01", kClusterings, "of the documents held out for valid, and as many for tune; at least 50 each"},

    {"Seed", "preset", "", kText, "NAME", kNone, kSeeds, "a new model: nano, micro, mini, small, 125m ... 175b"},
    {"Seed", "config", "", kText, "FILE", kNone, kSeeds, "a new model of this config.json's shape"},
    {"Seed", "init", "", kText, "DIR", kNone, kSeeds, "start from this OPT checkpoint"},
    {"Seed", "seed-tokens", "", kInteger, "N", kNone, kRun, "tokens that a new seed is trained on (default: half the corpus; --init: none)"},
    {"Seed", "seed-batch-tokens", "", kInteger, "N", kNone, kRun, "tokens of one of its steps (default: half --batch-tokens)"},
    {"Seed", "seed-learning-rate", "", kNumber, "R", kNone, kRun, "its peak (default: by the model's width)"},

    {"Training", "steps", "", kInteger, "N", kNone, kTrainings, "optimizer steps"},
    {"Training", "tokens", "", kInteger, "N", kNone, kTrainings, "of the dense model, instead of --steps (default: once over the corpus); experts share them"},
    {"Training", "batch-tokens", "", kInteger, "N", kNone, kTrainings, "tokens of one step of the dense model (default about 32768)"},
    {"Training", "match", "", kText, "WHAT", "steps", kBranches, "equal compute by: steps (an expert takes as many steps with 1/k of the batch) or batch (1/k of the steps)"},
    {"Training", "micro-batch", "", kInteger, "N", kNone, kTrainings, "sequences at a time; changes memory and speed, the result by the rounding of sums only (default: about 4096 tokens)"},
    {"Training", "sequence", "", kInteger, "N", "256", kTrainings, "tokens of a training sequence"},
    {"Training", "learning-rate", "", kNumber, "R", kNone, kTrainings, "peak (default: by the model's width)"},
    {"Training", "warmup", "", kInteger, "N", "0", kTrainings, "steps of linear warm-up"},
    {"Training", "final-learning-rate", "", kNumber, "P", "0", kTrainings, "fraction of the peak that the linear decay ends at"},
    {"Training", "dropout", "", kNumber, "P", "0.1", kTrainings, "of attention probabilities and residual branches, in steps of 1/256 (0.1 is 26/256)"},
    {"Training", "weight-decay", "", kNumber, "R", "0", kTrainings, "of matrices"},
    {"Training", "clip", "", kNumber, "R", "1", kTrainings, "gradient norm above which gradients are scaled down; 0 is never"},
    {"Training", "attention-within-document", "", kToggle, "", kNone, kTrainings, "tokens see only their own document"},
    {"Training", "save-every", "", kInteger, "N", "200", kTrainings, "steps between saved states"},
    {"Training", "keep", "", kInteger, "N", "2", kTrainings, "saved states to keep"},
    {"Training", "validate-every", "", kInteger, "N", kNone, kTrainings, "steps between held-out losses (default: ten times a run)"},
    {"Training", "snapshots", "", kInteger, "N", "3", kRun, "models kept along the way: what the report draws gain against budget from"},
    {"Training", "snapshots", "", kInteger, "N", "0", kTrainExpert, "models kept along the way, in RUN/snapshots: what the report draws gain against budget from"},
    {"Size", "points", "", kInteger, "N", "100000", kBenchCluster, "how many points, near as many random centres as there are clusters"},
    {"Size", "dimensions", "", kInteger, "N", "100", kBenchCluster, "of a point"},
    {"Size", "k", "", kInteger, "N", "8", kBenchCluster, "number of clusters"},
    {"Size", "iterations", "", kInteger, "N", "5", kBenchCluster, "at most"},
    {"Size", "sequence", "", kInteger, "N", "256", kBenches, "tokens of a sequence (decode: of the prompt)"},
    {"Size", "micro-batch", "", kInteger, "N", "8", kBenches, "sequences at a time"},
    {"Size", "steps", "", kInteger, "N", "10", kBenches, "steps to time, after one to warm up"},
    {"Size", "dropout", "", kNumber, "P", "0.1", kBenchTrain, "dropout probability, in steps of 1/256"},

    {"Prompt", "prompt", "", kText, "TEXT", kNone, kGenerations, "text to go on from (default: standard input, or ask at a terminal)"},
    {"Prompt", "prompt-ids", "", kText, "FILE", kNone, kGenerations, "token ids instead: a JSON file [[...], ...]"},
    {"Prompt", "no-bos", "", kToggle, "", kNone, kGenerations, "do not put </s> in front of a text prompt (evaluating never does: a document's first token is context only)"},
    {"Prompt", "max-new-tokens", "", kInteger, "N", "128", kGenerations, "tokens to generate at most"},
    {"Prompt", "show-routing", "", kToggle, "", kNone, kEnsembleGenerate, "say which experts wrote what, on stderr"},
    {"Sampling", "greedy", "", kToggle, "", kNone, kGenerations, "always the most likely token"},
    {"Sampling", "temperature", "", kNumber, "R", "1", kGenerations, "of sampling: below 1 is more cautious; 0 is --greedy"},
    {"Sampling", "sampling-top-k", "", kInteger, "N", "0", kGenerations, "draw from the N most likely tokens; 0 is all"},
    {"Sampling", "sampling-top-p", "", kNumber, "P", "1", kGenerations, "draw from the smallest set of tokens with this probability"},
    {"Sampling", "repetition-penalty", "", kNumber, "R", "1", kGenerations, "of tokens seen before; 1 is none"},
    {"Sampling", "stop", "", kList, "TEXT...", kNone, kGenerations, "end before any of these strings"},
    {"Sampling", "ignore-eos", "", kToggle, "", kNone, kGenerations, "go on after </s>"},

    {"Server", "host", "", kText, "ADDRESS", "127.0.0.1", kServe, "address to listen on, in numbers; 0.0.0.0 is all of this machine's"},
    {"Server", "port", "", kInteger, "N", "8080", kServe, "port to listen on; 0 takes a free one, which is printed"},
    {"Server", "alias", "", kText, "NAME", kNone, kServe, "name of the model for clients (default: ensemble, or the directory's name)"},
    {"Server", "parallel", "", kInteger, "N", "32", kServe, "texts that are generated at once"},
    {"Server", "prompt-cache", "", kText, "SIZE", kNone, kServe, "of --memory, for the beginnings of prompts that later requests may share; 0: none (default: an eighth of it)"},
    {"Server", "queue", "", kInteger, "N", "256", kServe, "requests that may wait; any more are told to try again later (429)"},
    {"Server", "max-tokens", "", kInteger, "N", kNone, kServe, "end texts after this many tokens, whatever a request asks for"},
    {"Server", "api-key", "", kText, "KEY", kNone, kServe, "requests must name it; visible to other users of this machine, unlike --api-key-file"},
    {"Server", "api-key-file", "", kText, "FILE", kNone, kServe, "the same, a key in each line"},
    {"Server", "cors-origin", "", kText, "URL", kNone, kServe, "web pages of this origin may use the server; * is all"},
    {"Server", "timeout", "", kNumber, "SECONDS", "60", kServe, "close connections that send or read nothing for so long"},
    {"Server", "drain", "", kNumber, "SECONDS", "30", kServe, "time that running requests have to end after SIGTERM"},
    {"Server", "log", "", kText, "FILE", kNone, kServe, "add a line of JSON for each request to this file (default: stderr)"},
    {"Server", "chat-template", "", kText, "FILE", kNone, kServe, "text with {{role}} and {{content}} for each message (default: {{role}}: {{content}})"},

    {"Results", "matrix", "", kToggle, "", kNone, kEnsembleEvaluate, "perplexity of every expert on every cluster's documents"},
    {"Results", "token-log-probs", "", kText, "FILE", kNone, kEnsembleEvaluate | kEnsemblePrior, "write every target's log-probability and weights here, one line per document and router"},
    {"Results", "expert-weights", "", kText, "WHAT", "uniform", kEnsembleAverage, "how much of each expert: uniform; one weight per cluster, as 0.2,0.8; or posterior:FILE[:topk=N], a prior of 'cbtm ensemble prior'"},
    {"Results", "stored-type", "", kText, "TYPE", "float32", kEnsembleAverage, "of the averaged weights in the file: float32, bf16 or fp16"},
    {"Results", "out", "", kText, "PATH", kNone, kEnsembleAverage | kEnsemblePrior, "average: the directory that the averaged model goes to; prior: the JSON file for --router posterior:prior=FILE"},
    {"Results", "ids", "", kText, "FILE", kNone, kLogits, "JSON: [[...], ...], rows of one length"},
    {"Results", "out", "", kText, "FILE", kNone, kLogits, "safetensors file: \"logits\" [batch, tokens, vocabulary] float32"},

    {"Types and memory", "precision", "", kText, "TYPE", "auto", kTrainings | kBenchTrain, "of activations and working weights: float32, bf16, fp16 or auto (bf16 on a GPU that has it)"},
    {"Types and memory", "weights", "", kText, "TYPE", "float32", kInference, "of the matrices in memory: float32; bf16 for half of it; int8 for a quarter and int4 for less yet, made from the checkpoint while it is read, at some loss of quality"},
    {"Types and memory", "memory", "", kText, "SIZE", kNone, kTrainings | kBenchTrain | kMixing | kEnsemblePrior | kFewShot | kServe, "of the device, for all that the command keeps there, for example 8G; where it does not suffice, trainings recompute and experts take turns (default: most of what is free)"},
    {"Types and memory", "no-cuda-graph", "", kToggle, "", kNone, kTrainings | kBenchTrain, "launch a step's kernels one by one (same results; on a GPU only, for debugging and profiling)"},

    {"General", "threads", "", kInteger, "N", kNone, kAll & ~(kCodings | kDevices), "threads to use (default: the cores this process may use)"},
    {"General", "seed", "", kSeed, "N", "1234", kTrainings | kCluster | kGenerations | kBenches | kBenchCluster, "seed of everything random"},
    {"General", "device", "", kText, "NAME", "auto", kOnDevices, "auto, cpu, cuda or cuda:N; trainings: several GPUs, cuda:0,1 or cuda:0-3 or cuda:all"},
    {"General", "device", "", kText, "NAME", "auto", kOnDevice, "auto, cpu, cuda or cuda:N"},
    {"General", "profile", "", kText, "PHASE[:FIRST[:COUNT]]", "", (kOnDevices | kOnDevice) & ~(kCluster | kServe), "a profiler captures these phases only: step, layer, checkpoint, validation, prompt, token (see scripts/profile)"},
    {"General", "no-verify", "", kToggle, "", kNone, kAll & ~(kTokenizers | kDevices | kBenchDevice | kBenchCluster), "use weights, shards and expert.json without comparing them with their recorded content hashes"},
    {"General", "json", "", kText, "FILE", kNone, kAll & ~(kCodings | kEnsembleAverage | kServe), "write the result here, machine-readable"},
    {"General", "quiet", "", kToggle, "", kNone, kAll, "print results, warnings and errors only"},
    {"General", "help", "", kToggle, "", kNone, kAll, "show this"},
};
// clang-format on

}  // namespace

std::span<const CommandUse> command_uses() { return kUses; }
std::span<const Flag> flag_table() { return kFlags; }

}  // namespace cbtm
