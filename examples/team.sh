# A team: one budget for all of its keys, an application, experiments that cannot eat the budget, and a limit on trial.
# On the server's host, with its data directory: PENSTOCK_DATA_DIR=~/.local/share/penstock sh team.sh

set -eu

# What the project's keys may spend together. A month is that of the calendar, in UTC.
penstock projects create --name web --models "gpt-5.4,gpt-5.4-*"
penstock limits set usd_per_month 500 --project web

# Each key is printed this once. The limits of a key hold besides those of its project.
penstock keys create --name web-app --project web --rpm 600 --concurrency 40
penstock keys create --name web-lab --project web --rpm 30 --budget-usd 20 --expires 90d

# The laboratory's answers are cut to what its budget has left, instead of going beyond it by the last one.
penstock limits set usd_per_month 20 --key web-lab --hard

# Counted, and reported in penstock_limits_shadowed_total, but not enforced: to see whom it would hit.
penstock limits set tpm 200000 --project web --shadow

penstock limits list
