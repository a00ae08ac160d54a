#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "cbtm/corpus/corpus.h"
#include "cbtm/device/device.h"
#include "cbtm/study/config.h"

namespace cbtm::study {

struct StudyOptions {
  std::filesystem::path out = "study";
  Config config;  ///< checked (check_config)
  CorpusOptions corpus;
  int64_t part = 1, parts = 1;  ///< which share of the cells is worked on
  bool keep_models = false;     ///< of cells that are evaluated, and the shards of their clusterings
  bool redo = false;            ///< make again what was made with other settings
  int64_t memory_bytes = 0;     ///< of the device; 0: what is free
  std::string command;          ///< as typed
};

/// What there is to do and what it takes, for people; `tokens` and FLOPs are of trainings. Reads what is there of the
/// study, and writes nothing.
std::string plan_text(const StudyOptions& options);

/// Trains and evaluates what is not there yet of the cells of the part, and everything that they share. Resumes like a
/// run. A cell that fails is named and left out, and the others are made all the same. Throws Error at the end if one
/// failed, and with kExitInterrupted after a stop signal.
void make_cells(std::span<Device* const> devices, const StudyOptions& options);

/// Joins what is there of the study in `out`, by its own configuration, and writes study.json, study-times.json and
/// study.html. Returns the names of the cells that are missing. Throws Error if there is no study.
std::vector<std::string> join_study(const std::filesystem::path& out);

}  // namespace cbtm::study
