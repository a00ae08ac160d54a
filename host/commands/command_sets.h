#pragma once

#include "commands/flag_table.h"

// The commands, and the sets of them that rows of the flag table name.

namespace cbtm {

enum CommandBit : CommandSet {
  kRun = 1u << 0,
  kTokenizerTrain = 1u << 1,
  kTokenizerEncode = 1u << 2,
  kTokenizerDecode = 1u << 3,
  kCluster = 1u << 4,
  kTrainSeed = 1u << 5,
  kTrainExpert = 1u << 6,
  kEnsembleGenerate = 1u << 7,
  kEnsembleEvaluate = 1u << 8,
  kEnsembleAverage = 1u << 9,
  kGenerate = 1u << 10,
  kEvaluate = 1u << 11,
  kLogits = 1u << 12,
  kInspect = 1u << 13,
  kBenchTrain = 1u << 14,
  kBenchDecode = 1u << 15,
  kBenchDevice = 1u << 16,
  kBenchCluster = 1u << 17,
  kDevices = 1u << 18,
  kServe = 1u << 19,
  kEnsemblePrior = 1u << 20,
  kFewShot = 1u << 21,
  kPlan = 1u << 22,
  kUpcycle = 1u << 23,
  kStudy = 1u << 24,
};

inline constexpr CommandUse kUses[] = {
    {kRun, "run", ""},
    {kTokenizerTrain, "tokenizer", "train"},
    {kTokenizerEncode, "tokenizer", "encode"},
    {kTokenizerDecode, "tokenizer", "decode"},
    {kCluster, "cluster", ""},
    {kTrainSeed, "train_seed", ""},
    {kTrainExpert, "train_expert", ""},
    {kUpcycle, "upcycle", ""},
    {kEnsembleGenerate, "ensemble", "generate"},
    {kEnsembleEvaluate, "ensemble", "evaluate"},
    {kEnsemblePrior, "ensemble", "prior"},
    {kEnsembleAverage, "ensemble", "average"},
    {kGenerate, "generate", ""},
    {kEvaluate, "evaluate", ""},
    {kFewShot, "fewshot", ""},
    {kLogits, "logits", ""},
    {kInspect, "inspect", ""},
    {kBenchTrain, "bench", "train"},
    {kBenchDecode, "bench", "decode"},
    {kBenchDevice, "bench", "device"},
    {kBenchCluster, "bench", "cluster"},
    {kDevices, "devices", ""},
    {kServe, "serve", ""},
    {kPlan, "plan", ""},
    {kStudy, "study", ""},
};

inline constexpr CommandSet kTokenizers = kTokenizerTrain | kTokenizerEncode | kTokenizerDecode;
inline constexpr CommandSet kCodings = kTokenizerEncode | kTokenizerDecode;
inline constexpr CommandSet kMixing = kEnsembleGenerate | kEnsembleEvaluate;
inline constexpr CommandSet kEnsembles = kMixing | kEnsembleAverage | kEnsemblePrior;
inline constexpr CommandSet kBenches = kBenchTrain | kBenchDecode;  // of a model
inline constexpr CommandSet kClusterings = kRun | kCluster;
inline constexpr CommandSet kSeeds = kRun | kTrainSeed;
inline constexpr CommandSet kBranches = kRun | kTrainExpert;
inline constexpr CommandSet kTrainings = kRun | kTrainSeed | kTrainExpert;
inline constexpr CommandSet kUpcyclings = kRun | kTrainExpert | kUpcycle;
inline constexpr CommandSet kSized = kTrainings | kPlan;  // by steps, batch and sequence
inline constexpr CommandSet kGenerations = kGenerate | kEnsembleGenerate;
inline constexpr CommandSet kEvaluations = kEvaluate | kEnsembleEvaluate | kEnsemblePrior;
inline constexpr CommandSet kOneModel = kGenerate | kEvaluate | kLogits | kBenches;
inline constexpr CommandSet kInference = kGenerations | kEvaluations | kFewShot | kLogits | kBenchDecode | kServe;
inline constexpr CommandSet kCorpora = kClusterings | kTokenizerTrain | kEvaluations | kPlan | kStudy;
inline constexpr CommandSet kOnDevices =
    kTrainings | kStudy | kBenches | kBenchDevice | kBenchCluster;  // several at a time
inline constexpr CommandSet kOnDevice =
    kCluster | kMixing | kEnsemblePrior | kFewShot | kGenerate | kEvaluate | kLogits | kServe;  // one at a time
inline constexpr CommandSet kAll = (kStudy << 1) - 1;

}  // namespace cbtm
