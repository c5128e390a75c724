#!/usr/bin/env bash
# SPDX-FileCopyrightText: Kokomoe authors
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 900

# A run killed at 8 random moments, and at each sync, rename, truncation and removal of a save and
# some of its writes, resumes and ends as the unbroken run. crash_slow has them all.
source "$(dirname "${BASH_SOURCE[0]}")/_crash.sh"
random_kills 8 20
if [[ -z "$KOKOMOE_KILL_LIBRARY" ]]; then
  echo "no library to preload in this build: kills at chosen operations are left out" >&2
  exit 0
fi
planned_kills 1 0 some
