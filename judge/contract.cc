// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/contract.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_format.h"

namespace tdp::judge {
namespace {

constexpr unsigned kAllClaims = 2047;
constexpr uint64_t kCr3GpaLimit = uint64_t{1} << 47;
constexpr uint64_t kEptGpaLimit = uint64_t{1} << 48;
constexpr uint64_t kHpaLimit = uint64_t{1} << 52;

std::string MisuseOfRights(const tdpj_contract& contract) {
  if (contract.rights_count < 1 || contract.rights_count > 8) {
    return absl::StrFormat(
        "contract.rights_count is %d: give the sets of rights that map may be asked for, 1 to 8, "
        "for instance {TDPJ_R | TDPJ_W | TDPJ_X}",
        contract.rights_count);
  }
  for (int i = 0; i < contract.rights_count; ++i) {
    const unsigned rights = contract.rights[i];
    if (rights == 0 || rights > 7) {
      return absl::StrFormat(
          "contract.rights[%d] is %u: it is a set of TDPJ_R, TDPJ_W and TDPJ_X that is not empty",
          i, rights);
    }
    if ((rights & TDPJ_R) == 0 && (rights & TDPJ_W) != 0) {
      return absl::StrFormat(
          "contract.rights[%d] has W without R, which the CPU takes for a misconfiguration", i);
    }
    if ((rights & TDPJ_R) == 0 && contract.format != TDPJ_FORMAT_EPT) {
      return absl::StrFormat(
          "contract.rights[%d] lacks R, which the formats CR3 and NPT always give", i);
    }
  }
  return "";
}

std::string MisuseOfTypes(const tdpj_contract& contract) {
  if (contract.type_count > 6) {
    return absl::StrFormat("contract.type_count is %u: at most 6", contract.type_count);
  }
  for (unsigned i = 0; i < contract.type_count; ++i) {
    const unsigned type = contract.types[i];
    if (type > 6 || type == 2 || type == 3) {
      return absl::StrFormat(
          "contract.types[%u] is %u: the memory types are 0 (UC), 1 (WC), 4 (WT), 5 (WP), 6 (WB)",
          i, type);
    }
  }
  if (contract.type_count != 0 && contract.format != TDPJ_FORMAT_EPT) {
    return "contract.type_count is not 0, but types are judged of the format EPT alone";
  }
  return "";
}

std::string MisuseOfUnits(const tdpj_contract& contract) {
  if (contract.min_order < 0 || contract.min_order > contract.max_order) {
    return absl::StrFormat("contract.min_order is %d: it is 0 to max_order, which is %d",
                           contract.min_order, contract.max_order);
  }
  const uint64_t unit = kPage << contract.min_order;
  const uint64_t most = std::min(contract.gpa_limit, contract.hpa_limit);
  if (contract.gpa_limit % unit != 0) {
    return absl::StrFormat("contract.gpa_limit is %#x: no multiple of the %#x that min_order says",
                           contract.gpa_limit, unit);
  }
  if (contract.initial_size % unit != 0 || contract.initial_size > most) {
    return absl::StrFormat(
        "contract.initial_size is %#x: a multiple of %#x up to the lower of the limits, %#x",
        contract.initial_size, unit, most);
  }
  for (int i = 0; i < 4; ++i) {
    const tdpj_range& hole = contract.initial_holes[i];
    if (hole.begin % unit == 0 && hole.size % unit == 0 && hole.size <= contract.initial_size &&
        hole.begin <= contract.initial_size - hole.size) {
      continue;
    }
    return absl::StrFormat(
        "contract.initial_holes[%d] is {%#x, %#x}: multiples of %#x within initial_size, %#x", i,
        hole.begin, hole.size, unit, contract.initial_size);
  }
  if (contract.map_over == TDPJ_OVER_ONLY && contract.initial_size == 0) {
    return "contract.map_over is TDPJ_OVER_ONLY and initial_size 0: nothing is ever mapped";
  }
  if (contract.range == TDPJ_RANGE_PAGE && contract.min_order != 0) {
    return "contract.range is TDPJ_RANGE_PAGE, but min_order is not 0";
  }
  return "";
}

std::string MisuseOfLimits(const tdpj_contract& contract) {
  const uint64_t most = contract.format == TDPJ_FORMAT_CR3 ? kCr3GpaLimit : kEptGpaLimit;
  if (contract.gpa_limit < kPage || contract.gpa_limit > most) {
    return absl::StrFormat(
        "contract.gpa_limit is %#x: the first address that is never mapped, from 0x1000 to %#x",
        contract.gpa_limit, most);
  }
  if (contract.hpa_limit < kPage || contract.hpa_limit > kHpaLimit) {
    return absl::StrFormat(
        "contract.hpa_limit is %#x: the first physical address that is never mapped, from 0x1000 "
        "to %#x",
        contract.hpa_limit, kHpaLimit);
  }
  if (contract.max_order < 0 || contract.max_order > 18) {
    return absl::StrFormat(
        "contract.max_order is %d: ranges have at most 2^max_order pages, 0 to 18",
        contract.max_order);
  }
  return MisuseOfUnits(contract);
}

std::string MisuseOfKnobs(const tdpj_contract& contract) {
  const struct {
    const char* name;
    int value;
    int most;
  } knobs[] = {
      {"range", contract.range, TDPJ_RANGE_PAGE},
      {"map_over", contract.map_over, TDPJ_OVER_ONLY},
      {"flush", contract.flush, TDPJ_FLUSH_BY_ENTRY},
      {"format", contract.format, TDPJ_FORMAT_NPT},
      {"unmap_hole", contract.unmap_hole, 1},
      {"unmap_part", contract.unmap_part, 1},
      {"protect_hole", contract.protect_hole, 1},
      {"protect_part", contract.protect_part, 1},
      {"identity_physical", contract.identity_physical, 1},
      {"identity_map", contract.identity_map, 1},
  };
  for (const auto& knob : knobs) {
    if (knob.value < 0 || knob.value > knob.most) {
      return absl::StrFormat("contract.%s is %d: it is 0 to %d", knob.name, knob.value, knob.most);
    }
  }
  if ((contract.claims & ~kAllClaims) != 0) {
    return absl::StrFormat("contract.claims has bits %#x that mean nothing",
                           contract.claims & ~kAllClaims);
  }
  return "";
}

std::string MisuseOfCalls(const tdpj_subject& subject) {
  if (subject.name == nullptr || *subject.name == 0) return "the subject has no name";
  if (subject.create == nullptr) return "create is null: the judge cannot make tables";
  if (subject.eptp == nullptr) return "eptp is null: the judge does not know where the tables are";
  if (subject.map == nullptr) return "map is null: there is nothing to judge";
  if ((subject.dirty_start == nullptr) != (subject.dirty_harvest == nullptr)) {
    return "of dirty_start and dirty_harvest one is null: dirty logging needs both";
  }
  const unsigned claims = subject.contract.claims;
  if ((claims & TDPJ_DEMAND) != 0 && subject.fault == nullptr) {
    return "the contract claims TDPJ_DEMAND, but fault is null";
  }
  if ((claims & TDPJ_FREES_ALL) != 0 && subject.destroy == nullptr) {
    return "the contract claims TDPJ_FREES_ALL, but destroy is null";
  }
  if ((claims & TDPJ_LOGS_ALL) != 0 && subject.dirty_start == nullptr) {
    return "the contract claims TDPJ_LOGS_ALL, but dirty_start is null";
  }
  if (subject.contract.flush == TDPJ_FLUSH_BY_ENTRY && subject.before_entry == nullptr) {
    return "the contract flushes by entry, but before_entry is null";
  }
  return "";
}

// Ranges that the contract's shape allows.
const char* WhyShapeForbidden(const tdpj_contract& contract, const tdpj_step& step) {
  const uint64_t pages = step.size / kPage;
  if (step.gpa % kPage != 0 || step.size % kPage != 0 || pages == 0) return "not whole pages";
  if (step.size > contract.gpa_limit || step.gpa > contract.gpa_limit - step.size) {
    return "beyond gpa_limit";
  }
  if (const uint64_t unit = kPage << contract.min_order;
      step.kind != TDPJ_STEP_TOUCH && (step.gpa % unit != 0 || step.size % unit != 0)) {
    return "not whole units of min_order";
  }
  if (pages > uint64_t{1} << contract.max_order) return "more pages than max_order says";
  if (contract.range == TDPJ_RANGE_PAGE && pages != 1) return "more than one page";
  if (contract.range == TDPJ_RANGE_ORDER) {
    if (!std::has_single_bit(pages)) return "not 2^n pages";
    if (step.gpa % step.size != 0) return "gpa is not aligned to the size";
  }
  return nullptr;
}

const char* WhyMapForbidden(const tdpj_contract& contract, const FlatMap& map,
                            const tdpj_step& step) {
  if (step.hpa % kPage != 0) return "hpa is not page aligned";
  if (contract.identity_map != 0 && step.hpa != step.gpa) return "hpa is not gpa";
  if (step.hpa % (kPage << contract.min_order) != 0) return "hpa is not aligned to min_order";
  if (contract.range == TDPJ_RANGE_ORDER && step.hpa % step.size != 0) {
    return "hpa is not aligned to the size";
  }
  if (step.size > contract.hpa_limit || step.hpa > contract.hpa_limit - step.size) {
    return "beyond hpa_limit";
  }
  const auto* rights_end = contract.rights + contract.rights_count;
  if (std::find(contract.rights, rights_end, step.rights) == rights_end) {
    return "rights that the contract does not list";
  }
  const auto* types_end = contract.types + contract.type_count;
  if (contract.type_count != 0 &&
      std::find(contract.types, types_end, step.memory_type) == types_end) {
    return "a memory type that the contract does not list";
  }
  if (contract.map_over == TDPJ_OVER_FORBIDDEN && map.CoversSome(step.gpa, step.gpa + step.size)) {
    return "something is mapped there";
  }
  if (contract.map_over == TDPJ_OVER_ONLY && !map.CoversAll(step.gpa, step.gpa + step.size)) {
    return "it meets what is not mapped";
  }
  return nullptr;
}

bool IsLogStep(int kind) {
  return kind == TDPJ_STEP_DIRTY_START || kind == TDPJ_STEP_DIRTY_STOP || kind == TDPJ_STEP_HARVEST;
}

const char* WhyLogOfAllForbidden(const tdpj_subject& subject, const RangeSet& logged,
                                 const tdpj_step& step) {
  if (step.gpa != 0 || step.size != subject.contract.gpa_limit) return "it is not everything";
  const bool on = !logged.ranges().empty();
  if (step.kind == TDPJ_STEP_DIRTY_START) return on ? "it is logged" : nullptr;
  if (step.kind == TDPJ_STEP_DIRTY_STOP && subject.dirty_stop == nullptr) {
    return "dirty_stop is null";
  }
  return on ? nullptr : "it is not logged";
}

const char* WhyChangeForbidden(const FlatMap& map, const tdpj_step& step, bool hole, bool part) {
  const uint64_t end = step.gpa + step.size;
  if (!hole && !map.CoversAll(step.gpa, end)) return "it meets what is not mapped";
  if (!part && map.CutsMapping(step.gpa, end)) return "it cuts a mapping";
  if (!part && !hole) {
    const Extent* extent = map.Find(step.gpa);
    if (extent->map_begin != step.gpa || extent->map_end != end) return "it is not one mapping";
  }
  return nullptr;
}

}  // namespace

std::string MisuseOf(const tdpj_subject* subject) {
  if (subject == nullptr) return "tdpj_get_subject returned null";
  for (const std::string& misuse :
       {MisuseOfCalls(*subject), MisuseOfKnobs(subject->contract),
        MisuseOfRights(subject->contract), MisuseOfTypes(subject->contract),
        MisuseOfLimits(subject->contract)}) {
    if (!misuse.empty()) return misuse;
  }
  return "";
}

const char* WhyForbidden(const tdpj_subject& subject, const FlatMap& map, const RangeSet& logged,
                         const tdpj_step& step) {
  const tdpj_contract& contract = subject.contract;
  if ((contract.claims & TDPJ_LOGS_ALL) != 0 && IsLogStep(step.kind)) {
    return WhyLogOfAllForbidden(subject, logged, step);
  }
  if (const char* why = WhyShapeForbidden(contract, step)) return why;
  const uint64_t end = step.gpa + step.size;
  switch (step.kind) {
    case TDPJ_STEP_MAP:
      return WhyMapForbidden(contract, map, step);
    case TDPJ_STEP_UNMAP:
      if (subject.unmap == nullptr) return "unmap is null";
      return WhyChangeForbidden(map, step, contract.unmap_hole != 0, contract.unmap_part != 0);
    case TDPJ_STEP_PROTECT: {
      if (subject.protect == nullptr) return "protect is null";
      const auto* rights_end = contract.rights + contract.rights_count;
      if (std::find(contract.rights, rights_end, step.rights) == rights_end) {
        return "rights that the contract does not list";
      }
      return WhyChangeForbidden(map, step, contract.protect_hole != 0, contract.protect_part != 0);
    }
    case TDPJ_STEP_TOUCH:
      return nullptr;
    case TDPJ_STEP_DIRTY_START:
      if (subject.dirty_start == nullptr) return "dirty_start is null";
      if (logged.Overlaps(step.gpa, end)) return "it is logged";
      return map.CoversAll(step.gpa, end) ? nullptr : "it meets what is not mapped";
    case TDPJ_STEP_DIRTY_STOP:
      if (subject.dirty_stop == nullptr) return "dirty_stop is null";
      [[fallthrough]];
    case TDPJ_STEP_HARVEST:
      for (const RangeSet::Range& range : logged.ranges()) {
        if (range.begin <= step.gpa && end <= range.end) return nullptr;
      }
      return "it is not logged";
    case TDPJ_STEP_SPLIT:
      return subject.split == nullptr ? "split is null" : nullptr;
    case TDPJ_STEP_MERGE:
      return subject.merge == nullptr ? "merge is null" : nullptr;
    default:
      return "there is no such step";
  }
}

const char* StepName(int kind) {
  constexpr const char* kNames[] = {"map",        "unmap",   "protect", "touch", "dirty_start",
                                    "dirty_stop", "harvest", "split",   "merge"};
  return kind >= 0 && kind <= TDPJ_STEP_MERGE ? kNames[kind] : "?";
}

const char* RightsText(unsigned rights) {
  constexpr const char* kTexts[] = {"---", "R--", "-W-", "RW-", "--X", "R-X", "-WX", "RWX"};
  return kTexts[rights & 7];
}

}  // namespace tdp::judge
