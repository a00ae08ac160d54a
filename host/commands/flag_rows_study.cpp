#include "commands/command_sets.h"
#include "commands/flag_rows.h"

namespace cbtm {
namespace {

// clang-format off
constexpr Flag kStudyFlags[] = {
    // group, name, alias, kind, value, default, commands, help
    {"Study", "out", "", kText, "DIR", "study", kStudy, "the study's directory"},
    {"Study", "config", "", kText, "FILE", kNone, kStudy, "JSON object with the study's settings (docs/study.md, 'Configuration'); flags count before it"},
    {"Study", "dry-run", "", kToggle, "", kNone, kStudy, "print the plan (cells, tokens, FLOPs, time, disk) and make nothing"},
    {"Study", "part", "", kText, "I/N", kNone, kStudy, "work on the I-th of N shares of the cells only, for example one on each machine; join them afterwards"},
    {"Study", "join", "", kToggle, "", kNone, kStudy, "make no cells: write study.json and study.html of what is there, and say what is missing"},
    {"Study", "keep-models", "", kToggle, "", kNone, kStudy, "keep the experts and models of cells that are evaluated, and the shards they were trained on"},
    {"Study", "redo", "", kToggle, "", kNone, kStudy, "make again what was made with other settings"},

    {"Grid", "k", "", kText, "N,N,...", kNone, kStudy, "numbers of clusters; 1, the dense model, is one of them (default: 1,2,4,8,16)"},
    {"Grid", "budgets", "", kText, "N,N,...", kNone, kStudy, "tokens of the dense model after branching, and of all experts together: 4M,8M,16M"},
    {"Grid", "seeds", "", kInteger, "N", kNone, kStudy, "random seeds, from 1 on (default: 3)"},
    {"Grid", "clusterings", "", kText, "KIND,...", kNone, kStudy, "balanced, unbalanced, random, domains (default: balanced)"},
    {"Grid", "domain-field", "", kText, "NAME", kNone, kStudy, "domains: the field of a JSON line that names one (default: the first directory below the corpus path)"},
    {"Grid", "routers", "", kText, "KIND[:OPTION...],...", kNone, kStudy, "as ensemble evaluate --router names them; tfidf is one of them (default: tfidf,posterior,uniform)"},
    {"Grid", "learning-rates", "", kText, "R,R,...", kNone, kStudy, "peaks that are tried for every system alike; each takes what is best for it on the tune documents"},

    {"Model", "preset", "", kText, "NAME", kNone, kStudy, "the model that is studied: nano, micro, mini, small, 125m ... 175b"},
    {"Model", "vocab-size", "", kInteger, "N", kNone, kStudy, "tokens to learn (default: 8192)"},
    {"Model", "sequence", "", kInteger, "N", kNone, kStudy, "tokens of a training sequence (default: 256)"},
    {"Model", "batch-tokens", "", kInteger, "N", kNone, kStudy, "tokens of one step of a dense model (default: 8192)"},
    {"Model", "dropout", "", kNumber, "P", kNone, kStudy, "of attention probabilities and residual branches (default: 0.1)"},
    {"Model", "seed-tokens", "", kInteger, "N", kNone, kStudy, "tokens that seed models are trained on before branching"},
};
// clang-format on

}  // namespace

std::span<const Flag> flags_of_studies() { return kStudyFlags; }

}  // namespace cbtm
