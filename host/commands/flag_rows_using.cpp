#include "commands/command_sets.h"
#include "commands/flag_rows.h"

namespace cbtm {
namespace {

// clang-format off
constexpr Flag kUsingFlags[] = {
    // group, name, alias, kind, value, default, commands, help
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

    {"Types and memory", "precision", "", kText, "TYPE", "auto", kSized | kBenchTrain, "of activations and working weights: float32, bf16, fp16 or auto (bf16 on a GPU that has it)"},
    {"Types and memory", "weights", "", kText, "TYPE", "float32", kInference | kPlan, "of the matrices in memory: float32; bf16 for half of it; int8 for a quarter and int4 for less yet, made from the checkpoint while it is read, at some loss of quality"},
    {"Types and memory", "memory", "", kText, "SIZE", kNone, kSized | kStudy | kBenchTrain | kMixing | kEnsemblePrior | kFewShot | kServe, "of the device, for all that the command keeps there, for example 8G; where it does not suffice, trainings recompute and experts take turns (default: most of what is free)"},
    {"Types and memory", "no-cuda-graph", "", kToggle, "", kNone, kTrainings | kBenchTrain, "launch a step's kernels one by one (same results; on a GPU only, for debugging and profiling)"},

    {"General", "threads", "", kInteger, "N", kNone, kAll & ~(kCodings | kDevices), "threads to use (default: the cores this process may use)"},
    {"General", "seed", "", kSeed, "N", "1234", kSized | kUpcycle | kCluster | kGenerations | kBenches | kBenchCluster, "seed of everything random"},
    {"General", "device", "", kText, "NAME", "auto", kOnDevices | kPlan, "auto, cpu, cuda or cuda:N; trainings: several GPUs, cuda:0,1 or cuda:0-3 or cuda:all"},
    {"General", "device", "", kText, "NAME", "auto", kOnDevice, "auto, cpu, cuda or cuda:N"},
    {"General", "profile", "", kText, "PHASE[:FIRST[:COUNT]]", "", (kOnDevices | kOnDevice) & ~(kCluster | kServe), "a profiler captures these phases only: step, layer, checkpoint, validation, prompt, token (see scripts/profile)"},
    {"General", "no-verify", "", kToggle, "", kNone, kAll & ~(kTokenizers | kDevices | kBenchDevice | kBenchCluster), "use weights, shards and expert.json without comparing them with their recorded content hashes"},
    {"General", "json", "", kText, "FILE", kNone, kAll & ~(kCodings | kEnsembleAverage | kServe), "write the result here, machine-readable"},
    {"General", "quiet", "", kToggle, "", kNone, kAll, "print results, warnings and errors only"},
    {"General", "help", "", kToggle, "", kNone, kAll, "show this"},
};
// clang-format on

}  // namespace

std::span<const Flag> flags_of_using() { return kUsingFlags; }

}  // namespace cbtm
