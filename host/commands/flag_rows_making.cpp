#include "commands/command_sets.h"
#include "commands/flag_rows.h"

namespace cbtm {
namespace {

// clang-format off
constexpr Flag kMakingFlags[] = {
    // group, name, alias, kind, value, default, commands, help
    {"Corpus", "corpus", "", kList, "PATH...", kNone, kCorpora, "files, directories and pipes: JSON lines, JSON arrays, text, source; each also as gzip or zstd; - is stdin"},
    {"Corpus", "text-field", "", kText, "NAME", "text", kCorpora | kTokenizerEncode, "field of a JSON line that holds the text"},
    {"Corpus", "on-bad-document", "", kText, "WHAT", "skip", kCorpora, "skip (and count) or fail"},
    {"Corpus", "max-bad-fraction", "", kNumber, "P", "0.01", kCorpora, "of documents that are bad, or of bytes in files that cannot be read: more is an error"},
    {"Corpus", "max-document-bytes", "", kText, "SIZE", "64M", kCorpora, "longer documents are bad ones"},
    {"Corpus", "keep-duplicates", "", kToggle, "", kNone, kCorpora, "keep exact duplicates"},

    {"Tokenizer", "tokenizer", "", kText, "DIR", kNone, kClusterings | kPlan, "take this one (vocab.json, merges.txt) instead of learning one"},
    {"Tokenizer", "vocab-size", "", kInteger, "N", "32768", kClusterings | kTokenizerTrain | kPlan, "tokens to learn: special ones, 256 bytes, joined pairs"},
    {"Tokenizer", "min-frequency", "", kInteger, "N", "2", kClusterings | kTokenizerTrain | kPlan, "do not join pairs seen less often"},
    {"Tokenizer", "out", "", kText, "DIR", kNone, kTokenizerTrain, "directory to write vocab.json and merges.txt to"},
    {"Texts", "tokenizer", "", kText, "DIR", kNone, kCodings, "directory with tokenizer.json, or vocab.json and merges.txt"},
    {"Texts", "input", "", kText, "FILE", kNone, kCodings, "encode: JSON lines with a text field; decode: lists of ids, one a line; - is stdin"},
    {"Texts", "output", "", kText, "FILE", kNone, kCodings, "where the result goes"},
    {"Texts", "no-bos", "", kToggle, "", kNone, kTokenizerEncode, "put no </s> (or what else the tokenizer has) around"},
    {"Texts", "no-special", "", kToggle, "", kNone, kTokenizerEncode, "special strings in the text are ordinary text"},
    {"Texts", "skip-special", "", kToggle, "", kNone, kTokenizerDecode, "leave special tokens out"},

    {"Clusters", "k", "", kInteger, "N", "8", kClusterings, "number of clusters, and so of experts (domains: as many as there are; a smaller number joins the smallest)"},
    {"Clusters", "k", "", kText, "N,...", "2,4,8,16", kPlan, "numbers of clusters, and so of experts, to plan with"},
    {"Clusters", "router", "", kText, "KIND", "tfidf", kClusterings, "what divides the corpus and chooses experts: tfidf (by words, see --clustering), or prefix (small language models, trained here, by the likelihood of a text's first tokens)"},
    {"Clusters", "prefix-tokens", "", kInteger, "N", "256", kClusterings, "prefix: tokens of a document that its models read"},
    {"Clusters", "router-preset", "", kText, "NAME", "nano", kClusterings, "prefix: shape of each of its models, as of --preset"},
    {"Clusters", "router-rounds", "", kInteger, "N", "16", kClusterings, "prefix: rounds, each of which assigns documents to the models and trains these on them"},
    {"Clusters", "router-tokens", "", kInteger, "N", kNone, kClusterings, "prefix: tokens that its models read in all rounds together (default: four times the prefixes)"},
    {"Clusters", "router-learning-rate", "", kNumber, "R", kNone, kClusterings, "prefix: peak of its models' learning rate (default: by their width)"},
    {"Clusters", "clustering", "", kText, "KIND", "balanced", kClusterings, "balanced k-means, unbalanced (plain) k-means, random (a seeded partition into equal parts) or domains (those that the corpus names)"},
    {"Clusters", "domain-field", "", kText, "NAME", kNone, kClusterings, "domains: the field of a JSON line that names one (default: the first directory below the corpus path)"},
    {"Clusters", "dimensions", "", kInteger, "N", "100", kClusterings, "of the SVD that documents are compared in"},
    {"Clusters", "embedding-scaling", "", kText, "HOW", "l2", kClusterings, "of a document's SVD coordinates: l2 (scaled to length 1, as the published program does) or standardised (each coordinate with mean 0 and variance 1)"},
    {"Clusters", "min-df", "", kInteger, "N", "1", kClusterings, "leave out terms of fewer documents"},
    {"Clusters", "fit-documents", "", kInteger, "N", "200000", kClusterings, "fit on at most this many documents (all are labelled)"},
    {"Clusters", "unbalanced", "", kToggle, "", kNone, kClusterings, "the same as --clustering unbalanced"},
    {"Clusters", "balance-shards", "", kToggle, "", kNone, kClusterings, "equal shards, instead of each document to its nearest centre"},
    {"Clusters", "kmeans-init", "", kText, "WHAT", "k-means++", kClusterings, "start of k-means: k-means++ or random rows"},
    {"Clusters", "restarts", "", kInteger, "N", "3", kClusterings, "starts of k-means; the best is kept"},
    {"Clusters", "valid-fraction", "", kNumber, "P", "0.01", kClusterings, "of the documents held out for valid, and as many for tune; at least 50 each"},

    {"Seed", "preset", "", kText, "NAME", kNone, kSeeds | kPlan, "a new model: nano, micro, mini, small, 125m ... 175b"},
    {"Seed", "config", "", kText, "FILE", kNone, kSeeds | kPlan, "a new model of this config.json's shape"},
    {"Seed", "init", "", kText, "DIR", kNone, kSeeds, "start from this OPT checkpoint"},
    {"Seed", "init", "model", kText, "DIR", kNone, kPlan, "start from this checkpoint"},
    {"Seed", "seed-tokens", "", kInteger, "N", kNone, kRun | kPlan, "tokens that a new seed is trained on (default: half the corpus; --init: none)"},
    {"Seed", "seed-batch-tokens", "", kInteger, "N", kNone, kRun | kPlan, "tokens of one of its steps (default: half --batch-tokens)"},
    {"Seed", "init-average", "", kText, "DIR", kNone, kTrainSeed, "start from the averaged parameters of the experts in this directory (--expert-weights)"},
    {"Seed", "expert-weights", "weights", kText, "WHAT", "uniform", kTrainSeed, "of --init-average, how much of each expert: uniform; one weight per cluster, as 0.2,0.8; or posterior:FILE[:topk=N], a prior of 'cbtm ensemble prior'"},
    {"Seed", "seed-learning-rate", "", kNumber, "R", kNone, kRun, "its peak (default: by the model's width)"},

    {"Mixture of experts", "model", "", kText, "DIR", kNone, kUpcycle, "the dense OPT checkpoint that it is made from"},
    {"Mixture of experts", "out", "", kText, "DIR", kNone, kUpcycle, "the directory that it goes to"},
    {"Mixture of experts", "moe-experts", "", kInteger, "N", "8", kTrainExpert | kUpcycle, "experts in each mixture; two of them work on a token"},
    {"Mixture of experts", "moe-experts", "", kInteger, "N", kNone, kRun, "train a mixture of so many experts too, as a baseline of the same tokens (stage moe)"},
    {"Mixture of experts", "moe-experts", "", kInteger, "N", kNone, kPlan, "plan a mixture of so many experts too, upcycled in every second layer"},
    {"Mixture of experts", "moe-layers", "", kText, "LAYERS", "odd", kUpcyclings, "layers whose feed-forwards become mixtures: odd (1, 3, ...), all, or numbers from 0 as 1,3,5"},
    {"Mixture of experts", "router-init", "", kText, "WHAT", "uniform", kUpcyclings, "routers start uniform in [0, 1), as in the published program, or normal (soft gates)"},

    {"Training", "steps", "", kInteger, "N", kNone, kSized, "optimizer steps"},
    {"Training", "tokens", "", kInteger, "N", kNone, kSized, "of the dense model, instead of --steps (default: once over the corpus); experts share them"},
    {"Training", "batch-tokens", "", kInteger, "N", kNone, kSized, "tokens of one step of the dense model (default about 32768)"},
    {"Training", "match", "", kText, "WHAT", "steps", kBranches | kPlan, "equal compute by: steps (an expert takes as many steps with 1/k of the batch) or batch (1/k of the steps)"},
    {"Training", "micro-batch", "", kInteger, "N", kNone, kSized, "sequences at a time; changes memory and speed, the result by the rounding of sums only (default: about 4096 tokens)"},
    {"Training", "sequence", "", kInteger, "N", "256", kSized, "tokens of a training sequence"},
    {"Training", "learning-rate", "", kNumber, "R", kNone, kTrainings, "peak (default: by the model's width)"},
    {"Training", "warmup", "", kInteger, "N", "0", kTrainings, "steps of linear warm-up"},
    {"Training", "final-learning-rate", "", kNumber, "P", "0", kTrainings, "fraction of the peak that the linear decay ends at"},
    {"Training", "dropout", "", kNumber, "P", "0.1", kSized, "of attention probabilities and residual branches, in steps of 1/256 (0.1 is 26/256)"},
    {"Training", "weight-decay", "", kNumber, "R", "0", kTrainings, "of matrices"},
    {"Training", "clip", "", kNumber, "R", "1", kTrainings, "gradient norm above which gradients are scaled down; 0 is never"},
    {"Training", "attention-within-document", "", kToggle, "", kNone, kTrainings, "tokens see only their own document"},
    {"Training", "save-every", "", kInteger, "N", "200", kTrainings, "steps between saved states"},
    {"Training", "keep", "", kInteger, "N", "2", kSized, "saved states to keep"},
    {"Training", "validate-every", "", kInteger, "N", kNone, kTrainings, "steps between held-out losses (default: ten times a run)"},
    {"Training", "snapshots", "", kInteger, "N", "3", kRun | kPlan, "models kept along the way: what the report draws gain against budget from"},
    {"Training", "snapshots", "", kInteger, "N", "0", kTrainExpert, "models kept along the way, in RUN/snapshots: what the report draws gain against budget from"},
    {"Plan", "devices", "", kInteger, "N", "1", kPlan, "devices that work side by side, all like the one that is measured"},
    {"Plan", "larger", "", kText, "NAME", kNone, kPlan, "plan a larger dense model of this preset too"},
    {"Plan", "topk", "", kInteger, "N", "2", kPlan, "experts that are mixed for a token in inference"},
    {"Plan", "cached-tokens", "", kInteger, "N", "2048", kPlan, "tokens of all texts that are generated at once, whose keys and values are kept"},
    {"Plan", "rate", "", kNumber, "N", kNone, kPlan, "tokens per second of the model in training on one device; nothing is measured then"},
    {"Plan", "probe-seconds", "", kNumber, "SECONDS", "5", kPlan, "about how long each shape of a training is timed"},
    {"Plan", "link-rate", "", kText, "SIZE", kNone, kPlan, "bytes per second that a device sends to the others which train one model with it (default: their exchange is not counted)"},
    {"Plan", "price-per-hour", "", kNumber, "R", kNone, kPlan, "of one device, in any currency"},
    {"Plan", "study", "", kText, "FILE", kNone, kPlan, "study.json whose fit suggests k (default: the paper's relation)"},
    {"Plan", "read", "", kText, "SIZE", "256M", kPlan, "read at most this much of the corpus; of a larger one, the beginnings of its files"},
    {"Size", "points", "", kInteger, "N", "100000", kBenchCluster, "how many points, near as many random centres as there are clusters"},
    {"Size", "dimensions", "", kInteger, "N", "100", kBenchCluster, "of a point"},
    {"Size", "k", "", kInteger, "N", "8", kBenchCluster, "number of clusters"},
    {"Size", "iterations", "", kInteger, "N", "5", kBenchCluster, "at most"},
    {"Size", "sequence", "", kInteger, "N", "256", kBenches, "tokens of a sequence (decode: of the prompt)"},
    {"Size", "micro-batch", "", kInteger, "N", "8", kBenches, "sequences at a time"},
    {"Size", "steps", "", kInteger, "N", "10", kBenches, "steps to time, after one to warm up"},
    {"Size", "dropout", "", kNumber, "P", "0.1", kBenchTrain, "dropout probability, in steps of 1/256"},
};
// clang-format on

}  // namespace

std::span<const Flag> flags_of_making() { return kMakingFlags; }

}  // namespace cbtm
