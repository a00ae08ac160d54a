#include "commands/command_sets.h"
#include "commands/flag_rows.h"

namespace cbtm {
namespace {

// clang-format off
constexpr Flag kInputFlags[] = {
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
    {"Run", "moe", "", kToggle, "", kNone, kTrainExpert, "a mixture of experts, made from the seed by sparse upcycling, on all shards: a baseline of the same tokens"},
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
    {"Routing", "coefficients", "", kText, "E=C,...", kNone, kMixing, "instead of routing: p(token) in proportion to the product of the experts' probabilities to these powers, for example 000=1,002=-0.5"},
    {"Routing", "merge", "", kText, "prompt", kNone, kEnsembleGenerate, "average the experts' parameters by their weights after the prompt, and let that one model write: one model's cost per token"},
    {"Routing", "router-temperature", "", kNumber, "T", kNone, kServe | kFewShot, "T of the weights exp(-distance^power / T) (default: the router's own)"},
    {"Routing", "router", "", kText, "KIND[:OPTION...],...", kNone, kMixing | kEnsembleAverage, "tfidf[:power=2|4][:temperature=T], prefix[:temperature=T], posterior[:exact|last][:prior=uniform|updating|FILE][:first=kept|all] or uniform, the first three with topk=N too; evaluate: several in one pass (default: the one that the experts were made with). A directory is taken as --router-directory, which is all that average takes"},
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
    {"Task", "no-shared-prompts", "", kToggle, "", kNone, kFewShot, "read every prompt whole, also what others begin with (same results; for measuring)"},
    {"Task", "details", "", kText, "FILE", kNone, kFewShot, "write prompts, weights and scores here, one line per seed and test line"},

    {"Documents", "run", "", kText, "DIR", kNone, kEvaluate, "a run whose held-out documents to use; no </s> is put in front of a document, its first token is context only"},
    {"Documents", "split", "", kText, "NAME", kNone, kEvaluations, "which of them: valid (what results are reported on; default), tune (default of prior) or train"},
    {"Documents", "max-tokens", "", kInteger, "N", kNone, kEvaluations, "read at most this many tokens of a document (default: what the model was trained on)"},
};
// clang-format on

}  // namespace

std::span<const Flag> flags_of_inputs() { return kInputFlags; }

}  // namespace cbtm
