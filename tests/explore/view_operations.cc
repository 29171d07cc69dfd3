// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/view_operations.h"

#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/mmu/vm/change.h"
#include "tests/explore/explored_host.h"
#include "tests/explore/flat_model.h"
#include "tests/explore/visitor.h"

namespace tdp::explore {
namespace {

// Returns whether the view is gone. A vCPU that went there by itself may have been set to it since.
bool Destroy(World& world, ViewId view) {
  const absl::Status gone = world.vm().DestroyView(view);
  if (world.kind().vmfunc && absl::IsFailedPrecondition(gone)) return false;
  world.Expect(gone, "DestroyView");
  world.CheckLeft(view);
  return true;
}

}  // namespace

void MakeView(World& world) {
  const absl::StatusOr<ViewId> view = world.vm().CreateView();
  world.Expect(view.status(), "CreateView");
  if (view.ok()) Destroy(world, *view);
}

// The guest finds the view in its list while it is there.
void MakeRuledView(World& world) {
  const absl::StatusOr<ViewId> view = world.vm().CreateView();
  world.Expect(view.status(), "CreateView");
  if (!view.ok()) return;
  world.model().OfferViewRights(*view, Access::Read());
  world.HoldOn();
  world.Expect(
      world.vm().SetViewRights(*view, Gfn(0), PageCount(FlatModel::kViewFrames), Access::Read()),
      "SetViewRights");
  world.model().SettleViewRights(*view, Access::Read());
  world.CheckPromises();
  world.HoldOn();
  // A view of this number may come again before the call returns.
  world.model().OfferViewRights(*view, Access::All());
  if (!Destroy(world, *view)) world.model().SettleViewRights(*view, Access::Read());
}

void SetRights(World& world) {
  const MutexLock lock(world.types());
  for (const Access rights : {Access::ReadExecute(), Access::Read(), Access::All()}) {
    world.model().OfferViewRights(world.view(), rights);
    world.Expect(
        world.vm().SetViewRights(world.view(), Gfn(0), PageCount(FlatModel::kViewFrames), rights),
        "SetViewRights");
    world.model().SettleViewRights(world.view(), rights);
    world.CheckPromises();
  }
}

void SetRightsAtOnce(World& world) {
  const MutexLock lock(world.types());
  for (const Access rights : {Access::ReadExecute(), Access::All()}) {
    world.model().OfferViewRights(world.view(), rights);
    world.Expect(world.vm().Apply({Change::ViewRights(world.view(), Gfn(0),
                                                      PageCount(FlatModel::kViewFrames), rights)}),
                 "Apply");
    world.model().SettleViewRights(world.view(), rights);
    world.CheckPromises();
  }
}

void DenyAtOnce(World& world) {
  const MutexLock lock(world.types());
  world.model().OfferViewRights(world.view(), Access::ReadExecute());
  world.Expect(
      world.vm().Apply({Change::ViewRights(world.view(), Gfn(0), PageCount(FlatModel::kViewFrames),
                                           Access::ReadExecute())}),
      "Apply");
  world.model().SettleViewRights(world.view(), Access::ReadExecute());
  world.CheckPromises();
}

void SetFrames(World& world) {
  const MutexLock lock(world.types());
  for (const auto first : {std::optional(World::kShownPages), std::optional<HostPageNumber>()}) {
    world.model().OfferShown(first);
    std::optional<Hfn> frames;
    if (first) frames = world.host().FrameOf(*first);
    world.Expect(world.vm().SetViewFrames(world.view(), Gfn(FlatModel::kFirstShown),
                                          PageCount(FlatModel::kShownFrames), frames),
                 "SetViewFrames");
    world.model().SettleShown(first);
    world.CheckPromises();
  }
}

void SetRaisesVe(World& world) {
  for (const bool raises : {true, false}) {
    world.Expect(world.vm().SetRaisesVe(world.view(), Gfn(0), PageCount(4), raises), "SetRaisesVe");
    world.CheckPromises();
  }
}

void SwitchView(World& world) {
  Visitor visitor(world);
  Random random(5);
  for (const ViewId view : {world.view(), kBaseView}) {
    world.Expect(visitor->SetView(view), "SetView");
    world.Touch(*visitor, visitor.cpu(), 3, random);
  }
}

}  // namespace tdp::explore
