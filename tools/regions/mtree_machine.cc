// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/regions/mtree_machine.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

absl::Status Bad(int line, std::string_view what) {
  return absl::InvalidArgumentError(line == 0 ? std::string(what) : absl::StrCat(line, ": ", what));
}

// Returns whether two trees were printed of one region: QEMU repeats a tree where an alias shows
// it.
bool SameTree(const MtreeNode& a, const MtreeNode& b) {
  const bool same = a.name == b.name && a.size == b.size && a.priority == b.priority &&
                    a.type == b.type && a.enabled == b.enabled && a.alias_of == b.alias_of &&
                    a.alias_offset == b.alias_offset && a.children.size() == b.children.size();
  if (!same) return false;
  for (size_t i = 0; i < a.children.size(); ++i) {
    const uint64_t apart = a.children[i]->start - a.start;
    if (apart != b.children[i]->start - b.start) return false;
    if (!SameTree(*a.children[i], *b.children[i])) return false;
  }
  return true;
}

template <typename Visit>
void ForEachNode(const MtreeNode& node, Visit visit) {
  visit(node);
  for (const auto& child : node.children) ForEachNode(*child, visit);
}

// Host memory for each region that has some: apart, each at a whole GiB.
class HostPlaces {
 public:
  Hva Next(RegionSize size) {
    const Hva place = next_;
    if (size <= TiB(8)) {
      next_ = next_ + (absl::Uint128Low64(size) + GiB(1) - 1) / GiB(1) * GiB(1);
    }
    return place;
  }

 private:
  Hva next_{0x100000000000};
};

// Returns a line of a flat view, of QEMU's or ours, in words that can be compared.
std::string RangeWords(uint64_t start, RegionSize size, std::string_view type,
                       std::string_view name, uint64_t offset) {
  const uint64_t last = start + absl::Uint128Low64(size - 1);
  return absl::StrFormat("%016x-%016x (%s): %s @%016x", start, last, type, name, offset);
}

std::string_view TypeWord(MtreeType type) {
  constexpr std::string_view kWords[] = {"ram", "rom", "romd", "i/o"};
  return kWords[static_cast<size_t>(type)];
}

std::string_view TypeWord(const FlatRange& range) {
  if (!range.region->is_memory()) return "i/o";
  if (range.read_only) return "rom";
  return range.region->kind() == RegionKind::kRomDevice ? "romd" : "ram";
}

std::set<std::string> Words(absl::Span<const FlatRange> flat) {
  std::set<std::string> words;
  for (const FlatRange& range : flat) {
    words.insert(
        RangeWords(range.start, range.size, TypeWord(range), range.region->name(), range.offset));
  }
  return words;
}

std::set<std::string> Words(const MtreeFlatView& view) {
  std::set<std::string> words;
  for (const MtreeRange& range : view.ranges) {
    words.insert(
        RangeWords(range.start, range.size, TypeWord(range.type), range.name, range.offset));
  }
  return words;
}

// Returns how many bytes of `view` are not shown by `flat` as QEMU says.
RegionSize DifferentBytes(absl::Span<const FlatRange> flat, const MtreeFlatView& view) {
  RegionSize different = 0;
  size_t next = 0;
  for (const MtreeRange& range : view.ranges) {
    const RegionSize end = RegionSize(range.start) + range.size;
    RegionSize same = 0;
    while (next < flat.size() && flat[next].end() <= range.start) ++next;
    for (size_t i = next; i < flat.size() && flat[i].start < end; ++i) {
      const bool equal = TypeWord(flat[i]) == TypeWord(range.type) &&
                         flat[i].region->name() == range.name &&
                         flat[i].start - flat[i].offset == range.start - range.offset;
      if (!equal) continue;
      same += std::min(flat[i].end(), end) - std::max(flat[i].start, range.start);
    }
    different += range.size - same;
  }
  return different;
}

// The trees of a file become regions.
class TreeBuilder {
 public:
  TreeBuilder(const MtreeFile& file, MtreeMachine& machine) : file_(file), machine_(machine) {}

  // `views`: what QEMU shows of each of `roots`, or null.
  absl::StatusOr<std::vector<Region*>> Build(const std::vector<const MtreeNode*>& roots,
                                             const std::vector<const MtreeFlatView*>& views) {
    const bool seen = std::find(views.begin(), views.end(), nullptr) == views.end();
    for (const MtreeFlatView* view : views) {
      for (size_t i = 0; seen && i < view->ranges.size(); ++i) shown_.insert(view->ranges[i].name);
    }
    knows_shown_ = seen;
    for (const MtreeNode* root : roots) TDP_RETURN_IF_ERROR(Need(*root));
    TDP_RETURN_IF_ERROR(CreateAll());
    TDP_RETURN_IF_ERROR(AttachAll());
    std::vector<Region*> regions;
    for (const MtreeNode* root : roots) regions.push_back(regions_[Original(*root)]);
    for (size_t i = 0; i < roots.size(); ++i) {
      if (views[i] != nullptr) TDP_RETURN_IF_ERROR(FindReadOnlyAliases(*regions[i], *views[i]));
    }
    return regions;
  }

 private:
  // Everything below `node`, and all that is shown there, is to be made.
  absl::Status Need(const MtreeNode& node) {
    std::vector<const MtreeNode*> waiting = {Original(node)};
    while (!waiting.empty()) {
      const MtreeNode* const next = waiting.back();
      waiting.pop_back();
      if (!needed_.insert(next).second) continue;
      order_.push_back(next);
      for (const auto& child : next->children) {
        parents_[child.get()] = next;
        waiting.push_back(child.get());
      }
      if (!next->is_alias()) continue;
      TDP_ASSIGN_OR_RETURN(targets_[next], Target(*next));
      waiting.push_back(targets_[next]);
    }
    return absl::OkStatus();
  }

  // Returns the first place at which the tree of `node` was printed.
  const MtreeNode* Original(const MtreeNode& node) {
    const auto known = originals_.find(&node);
    if (known != originals_.end()) return known->second;
    const MtreeNode* found = nullptr;
    for (const bool spaces : {true, false}) {
      for (const MtreeSection& section : file_.sections) {
        if (section.is_space != spaces || section.root == nullptr) continue;
        ForEachNode(*section.root, [&](const MtreeNode& each) {
          if (found == nullptr && SameTree(each, node)) found = &each;
        });
      }
    }
    originals_[&node] = found;
    return found;
  }

  // Finds what an alias shows: QEMU prints a name and, further down, a tree for each region so
  // named.
  absl::StatusOr<const MtreeNode*> Target(const MtreeNode& alias) {
    std::vector<const MtreeNode*> all;
    const auto add = [&](const MtreeNode& node) {
      const MtreeNode* const original = Original(node);
      if (std::find(all.begin(), all.end(), original) == all.end()) all.push_back(original);
    };
    for (const MtreeSection& section : file_.sections) {
      if (!section.is_space && section.root != nullptr && section.names[0] == alias.alias_of) {
        add(*section.root);
      }
    }
    for (const MtreeSection& section : file_.sections) {
      if (!all.empty() || section.root == nullptr) continue;
      ForEachNode(*section.root, [&](const MtreeNode& node) {
        if (!node.is_alias() && node.name == alias.alias_of) add(node);
      });
    }
    if (all.empty()) {
      return Bad(alias.line, absl::StrCat("alias ", alias.name, " shows @", alias.alias_of,
                                          ", and no region of that name follows"));
    }
    if (all.size() == 1) return all[0];
    return Choose(alias, all);
  }

  // Chooses, of several of one name, the first with something in the part that is shown.
  const MtreeNode* Choose(const MtreeNode& alias, const std::vector<const MtreeNode*>& all) {
    const auto shows = [&](const MtreeNode* node) {
      return std::any_of(node->children.begin(), node->children.end(), [&](const auto& child) {
        const uint64_t at = child->start - node->start;
        return RegionSize(at) < RegionSize(alias.alias_offset) + alias.size &&
               RegionSize(alias.alias_offset) < RegionSize(at) + child->size;
      });
    };
    const auto fits = std::count_if(all.begin(), all.end(), shows);
    if (fits > 1 && alias.enabled) {
      machine_.notes.push_back(absl::StrCat(alias.line, ": alias ", alias.name, " may show any of ",
                                            fits, " regions named ", alias.alias_of,
                                            "; the first is taken"));
    }
    const auto found = std::find_if(all.begin(), all.end(), shows);
    return found == all.end() ? all[0] : *found;
  }

  // A container and a device print alike. Where a flat view says what shows, that decides; else a
  // region that has children, that fills the address space or that nothing contains is taken for
  // a container.
  RegionKind KindOf(const MtreeNode& node) const {
    switch (node.type) {
      case MtreeType::kRam:
        return RegionKind::kRam;
      case MtreeType::kRom:
        return RegionKind::kRom;
      case MtreeType::kRomDevice:
        return RegionKind::kRomDevice;
      case MtreeType::kIo:
        break;
    }
    if (knows_shown_)
      return shown_.contains(node.name) ? RegionKind::kMmio : RegionKind::kContainer;
    const bool contains =
        !node.children.empty() || node.size == kWholeAddressSpace || !parents_.contains(&node);
    return contains ? RegionKind::kContainer : RegionKind::kMmio;
  }

  absl::Status Create(const MtreeNode& node) {
    RegionSpec spec;
    spec.name = node.name;
    spec.size = node.size;
    if (node.is_alias()) {
      spec.kind = RegionKind::kAlias;
      spec.alias_of = regions_[targets_[&node]];
      spec.alias_offset = node.alias_offset;
      // The part of RAM that a PC's chipset write-protects; see also `FindReadOnlyAliases`.
      spec.read_only = !knows_shown_ && node.name == "pam-rom";
    } else {
      spec.kind = KindOf(node);
      if (spec.kind != RegionKind::kContainer && spec.kind != RegionKind::kMmio) {
        spec.host = places_.Next(node.size);
      }
    }
    const absl::StatusOr<Region*> region = machine_.regions.tree->Create(std::move(spec));
    if (!region.ok()) return Bad(node.line, region.status().message());
    regions_[&node] = *region;
    return machine_.regions.tree->SetEnabled(*region, node.enabled);
  }

  // Aliases after what they show, in several rounds, since they may show aliases.
  absl::Status CreateAll() {
    std::vector<const MtreeNode*> waiting = order_;
    while (!waiting.empty()) {
      std::vector<const MtreeNode*> later;
      for (const MtreeNode* node : waiting) {
        if (node->is_alias() && !regions_.contains(targets_[node])) {
          later.push_back(node);
        } else {
          TDP_RETURN_IF_ERROR(Create(*node));
        }
      }
      if (later.size() == waiting.size()) {
        return Bad(later[0]->line, "an alias that shows itself by way of others");
      }
      waiting = std::move(later);
    }
    return absl::OkStatus();
  }

  // Where siblings have one place and priority, the first that is printed shows; in a `RegionTree`
  // it is the last that is attached.
  absl::Status AttachAll() {
    for (const MtreeNode* node : order_) {
      for (auto child = node->children.rbegin(); child != node->children.rend(); ++child) {
        const absl::Status attached =
            machine_.regions.tree->Attach(regions_[node], regions_[child->get()],
                                          (*child)->start - node->start, (*child)->priority);
        if (!attached.ok()) return Bad((*child)->line, attached.message());
      }
    }
    return absl::OkStatus();
  }

  // That an alias is read-only is not printed, but the flat view has it: each alias is tried.
  absl::Status FindReadOnlyAliases(const Region& root, const MtreeFlatView& view) {
    RegionSize different = DifferentBytes(Flatten(root), view);
    for (const MtreeNode* node : order_) {
      if (different == 0) break;
      if (!node->is_alias() || !node->enabled) continue;
      Region* const alias = regions_[node];
      TDP_RETURN_IF_ERROR(machine_.regions.tree->SetReadOnly(alias, true));
      const RegionSize now = DifferentBytes(Flatten(root), view);
      if (now >= different) TDP_RETURN_IF_ERROR(machine_.regions.tree->SetReadOnly(alias, false));
      different = std::min(different, now);
    }
    return absl::OkStatus();
  }

  const MtreeFile& file_;
  MtreeMachine& machine_;
  HostPlaces places_;
  bool knows_shown_ = false;
  absl::flat_hash_set<std::string> shown_;  // names in the flat views
  absl::flat_hash_set<const MtreeNode*> needed_;
  std::vector<const MtreeNode*> order_;
  absl::flat_hash_map<const MtreeNode*, const MtreeNode*> originals_;
  absl::flat_hash_map<const MtreeNode*, const MtreeNode*> parents_;
  absl::flat_hash_map<const MtreeNode*, const MtreeNode*> targets_;  // of aliases
  absl::flat_hash_map<const MtreeNode*, Region*> regions_;
};

// The ranges of a flat view become regions: memory of one name is one region, parts of which are
// shown.
class ViewBuilder {
 public:
  ViewBuilder(RegionTree& tree, const std::vector<const MtreeFlatView*>& views) : tree_(tree) {
    for (const MtreeFlatView* view : views) {
      for (const MtreeRange& range : view->ranges) Note(range);
    }
  }

  absl::StatusOr<Region*> Build(const std::string& space, const MtreeFlatView& view) {
    TDP_ASSIGN_OR_RETURN(Region * root, tree_.Create({.name = space, .size = kWholeAddressSpace}));
    for (const MtreeRange& range : view.ranges) {
      const absl::StatusOr<Region*> part = Part(range);
      if (!part.ok()) return Bad(range.line, part.status().message());
      const absl::Status attached = tree_.Attach(root, *part, range.start, range.priority);
      if (!attached.ok()) return Bad(range.line, attached.message());
    }
    return root;
  }

 private:
  struct Memory {
    RegionSize size = 0;
    RegionKind kind = RegionKind::kRom;  // unless a part can be written
    Region* region = nullptr;
  };

  void Note(const MtreeRange& range) {
    if (range.type == MtreeType::kIo) return;
    Memory& memory = memory_[range.name];
    memory.size = std::max(memory.size, RegionSize(range.offset) + range.size);
    if (range.type == MtreeType::kRam) memory.kind = RegionKind::kRam;
    if (range.type == MtreeType::kRomDevice) memory.kind = RegionKind::kRomDevice;
  }

  absl::StatusOr<Region*> Part(const MtreeRange& range) {
    RegionSpec spec;
    spec.name = range.name;
    spec.size = range.size;
    if (range.type == MtreeType::kIo) {
      spec.kind = RegionKind::kMmio;
      return tree_.Create(std::move(spec));
    }
    Memory& memory = memory_[range.name];
    if (memory.region == nullptr) {
      TDP_ASSIGN_OR_RETURN(memory.region, tree_.Create({.name = range.name,
                                                        .kind = memory.kind,
                                                        .size = memory.size,
                                                        .host = places_.Next(memory.size)}));
    }
    spec.kind = RegionKind::kAlias;
    spec.alias_of = memory.region;
    spec.alias_offset = range.offset;
    spec.read_only = range.type == MtreeType::kRom;
    return tree_.Create(std::move(spec));
  }

  RegionTree& tree_;
  HostPlaces places_;
  std::map<std::string, Memory> memory_;
};

const MtreeNode* FindTree(const MtreeFile& file, const std::string& space) {
  for (const MtreeSection& section : file.sections) {
    const auto& names = section.names;
    const bool named = std::find(names.begin(), names.end(), space) != names.end();
    if (section.is_space && named && section.root != nullptr) return section.root.get();
  }
  return nullptr;
}

const MtreeFlatView* FindView(const MtreeFile& file, const std::string& space) {
  for (const MtreeFlatView& view : file.views) {
    const auto& names = view.spaces;
    if (std::find(names.begin(), names.end(), space) != names.end()) return &view;
  }
  return nullptr;
}

std::vector<std::string> SpaceNames(const MtreeFile& file) {
  std::vector<std::string> names;
  const auto add = [&](const std::vector<std::string>& more) {
    for (const std::string& name : more) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  };
  for (const MtreeSection& section : file.sections) {
    if (section.is_space && section.root != nullptr) add(section.names);
  }
  for (const MtreeFlatView& view : file.views) add(view.spaces);
  return names;
}

// Returns the spaces asked for, or the one that a machine's memory has in QEMU.
absl::StatusOr<std::vector<std::string>> ChooseSpaces(const MtreeFile& file,
                                                      absl::Span<const std::string> asked) {
  const std::vector<std::string> names = SpaceNames(file);
  if (names.empty()) return Bad(0, "no address space with a tree or a flat view");
  if (asked.empty()) {
    const bool usual = std::find(names.begin(), names.end(), "memory") != names.end();
    return std::vector<std::string>{usual ? "memory" : names[0]};
  }
  for (const std::string& space : asked) {
    if (std::find(names.begin(), names.end(), space) == names.end()) {
      return Bad(0, absl::StrCat("no address space \"", space,
                                 "\" in it; there are: ", absl::StrJoin(names, ", ")));
    }
  }
  return std::vector<std::string>(asked.begin(), asked.end());
}

}  // namespace

absl::StatusOr<MtreeMachine> MakeMtreeMachine(const MtreeFile& file,
                                              absl::Span<const std::string> spaces) {
  MtreeMachine machine;
  machine.regions.tree = std::make_unique<RegionTree>();
  TDP_ASSIGN_OR_RETURN(const std::vector<std::string> names, ChooseSpaces(file, spaces));
  std::vector<const MtreeNode*> trees;
  for (const std::string& name : names) {
    machine.views.push_back(FindView(file, name));
    trees.push_back(FindTree(file, name));
  }
  std::vector<Region*> roots;
  if (std::find(trees.begin(), trees.end(), nullptr) == trees.end()) {
    TreeBuilder builder(file, machine);
    TDP_ASSIGN_OR_RETURN(roots, builder.Build(trees, machine.views));
  } else {
    for (size_t i = 0; i < names.size(); ++i) {
      if (machine.views[i] != nullptr) continue;
      return Bad(0, absl::StrCat("address space \"", names[i], "\" has no flat view in it"));
    }
    ViewBuilder builder(*machine.regions.tree, machine.views);
    for (size_t i = 0; i < names.size(); ++i) {
      TDP_ASSIGN_OR_RETURN(roots.emplace_back(), builder.Build(names[i], *machine.views[i]));
    }
    machine.views.assign(names.size(), nullptr);
  }
  for (size_t i = 0; i < names.size(); ++i) {
    machine.regions.address_spaces.push_back({names[i], roots[i]});
  }
  return machine;
}

std::vector<std::string> ViewDifferences(absl::Span<const FlatRange> flat,
                                         const MtreeFlatView& view) {
  const std::set<std::string> ours = Words(flat);
  const std::set<std::string> qemus = Words(view);
  std::vector<std::string> different;
  for (const std::string& line : ours) {
    if (!qemus.contains(line)) different.push_back(absl::StrCat("only here: ", line));
  }
  for (const std::string& line : qemus) {
    if (!ours.contains(line)) different.push_back(absl::StrCat("only QEMU: ", line));
  }
  return different;
}

}  // namespace tdp::tools
