#pragma once

#include <string>

#include "cbtm/plan/training_plan.h"

namespace cbtm {

/// The corpus in two lines: what was counted, and what was estimated from what.
std::string survey_text(const CorpusSurvey& survey);

/// The table of the systems, their times by stage, the update rates and the suggestion, for people.
std::string plan_text(const Plan& plan, const PlanRequest& request);

}  // namespace cbtm
