-- The arithmetic of stores/slices.py, in the server: all that one gateway asks of one tag at a time, as one step.
--
-- KEYS[1] has the gateway's last call; the others are counters, in the order of the bounds in ARGV[1], which is what
-- stores/valkey.py packs. Times are microseconds, of which windows have those since 1970. -1 is never.
--
-- A counter of a window is a hash. Its field "m" has the life, the newest bucket, the oldest that may be there, what
-- is taken in all, and what of the newest: a lease reads and writes that alone. The other fields are older buckets.
-- A counter of slots is a hash of holders, each with its count, the life of that, and when it expires.
--
-- Of a call whose reply was lost, what it took is given back by the next one, which knows that it was: so the last
-- call's number and takings are kept. A call that comes after a later one, from a connection that is no more, is void.

local LEASE, HOLD, HOUR, DAY, BUCKETS = 1000000, 30000000, 3600, 86400000000, 240
local RING, DAILY, LIFETIME, SLOTS = 0, 1, 3, 4
local NEVER = -1

local floor, min, max, huge = math.floor, math.min, math.max, math.huge
local redis_call = redis.call

local number, received, holder, bounds, batch, renewals, seeds, leases = unpack(cmsgpack.unpack(ARGV[1]))
local time = redis_call('TIME')
local now = time[1] * 1000000 + time[2]
if ARGV[2] then now = tonumber(ARGV[2]) end -- the clock of a test

-- The number of the day or month that `at` is in, and the microseconds until it ends.
local function calendar(kind, at)
  local days = floor(at / DAY)
  local passed = at - days * DAY
  if kind == DAILY then return days, DAY - passed end
  local era = floor((days + 719468) / 146097) -- of 400 years, which begin in March
  local of_era = days + 719468 - era * 146097
  local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * of_year + 2) / 153)
  local ends = floor((153 * (month + 1) + 2) / 5)
  if month == 11 then
    local leap = (year + 1) % 4 == 0 and ((year + 1) % 100 ~= 0 or (year + 1) % 400 == 0)
    ends = leap and 366 or 365
  end
  return (era * 400 + year) * 12 + month, (ends - of_year) * DAY - passed
end

-- The bucket that `at` is in.
local function bucket_of(bound, at)
  if bound[1] == RING then return floor(at / bound[2]) end
  if bound[1] == LIFETIME then return 0 end
  return (calendar(bound[1], at))
end

-- The oldest bucket that is in the window whose newest is this.
local function oldest_of(bound, newest)
  if bound[1] == RING then return newest - BUCKETS - 1 end
  return newest
end

-- Know the amounts of these buckets.
local function fetch(window, from, to)
  local amounts, fields = window.amounts, {}
  for bucket = from, to do
    if amounts[bucket] == nil and bucket ~= window.newest then fields[#fields + 1] = bucket end
  end
  if #fields > 0 then
    local found = redis_call('HMGET', window.key, unpack(fields))
    for index, bucket in ipairs(fields) do amounts[bucket] = tonumber(found[index] or nil) or false end
  end
end

local function amount_in(window, bucket)
  if bucket == window.newest then return window.current end
  return window.amounts[bucket]
end

-- Make the bucket of now the newest, and forget what has left the window.
local function advance(window)
  local bound, was = window.bound, window.newest
  local current = bucket_of(bound, now)
  if bound[1] == RING then
    window.ends = (max(current, was) + 1) * bound[2] - now
  elseif bound[1] == LIFETIME then
    window.ends = huge
  else
    local _, ends = calendar(bound[1], now)
    window.ends = ends
  end
  if current <= was then return end
  window.amounts[was], window.unsaved[was] = window.current, true
  window.newest, window.current, window.touched, window.moved = current, 0, true, true
  local oldest = oldest_of(bound, current)
  local last = min(oldest - 1, was)
  if window.oldest <= last then
    fetch(window, window.oldest, last)
    local gone = {}
    for bucket = window.oldest, last do
      local amount = window.amounts[bucket]
      if amount then
        window.taken = window.taken - amount
        if not window.unsaved[bucket] then gone[#gone + 1] = bucket end
      end
      window.amounts[bucket], window.unsaved[bucket] = false, nil
    end
    if #gone > 0 then redis_call('HDEL', window.key, unpack(gone)) end
  end
  window.oldest = max(window.oldest, oldest)
end

local windows, slots = {}, {}

local function new_window(index)
  local window = {key = KEYS[index + 1], bound = bounds[index], amounts = {}, unsaved = {}}
  windows[index] = window
  return window
end

-- The window of this bound as it is now; false where there is none.
local function window_of(index)
  local window = windows[index]
  if window == nil then
    local meta = redis_call('HGET', KEYS[index + 1], 'm')
    if not meta then
      windows[index] = false
      return false
    end
    window = new_window(index)
    window.life, window.newest, window.oldest, window.taken, window.current = struct.unpack('<ddddd', meta)
    advance(window)
  end
  return window
end

local function take(window, amount)
  window.current, window.taken, window.touched = window.current + amount, window.taken + amount, true
end

local function give_back(window, bucket, amount)
  if bucket < window.oldest then return end
  if bucket == window.newest then
    window.current = window.current - amount
  else
    fetch(window, bucket, bucket)
    if not window.amounts[bucket] then return end
    window.amounts[bucket], window.unsaved[bucket] = window.amounts[bucket] - amount, true
  end
  window.taken, window.touched = window.taken - amount, true
end

-- When a bucket leaves its window, from now.
local function leaves(window, bucket)
  return (bucket + BUCKETS + 2) * window.bound[2] - now
end

-- Until so much has left the window.
local function wait(window, amount)
  if window.bound[1] ~= RING then return amount <= window.taken and window.ends or huge end
  for from = window.oldest, window.newest, 16 do
    local to = min(from + 15, window.newest)
    fetch(window, from, to)
    for bucket = from, to do
      amount = amount - (amount_in(window, bucket) or 0)
      if amount <= 0 then return leaves(window, bucket) end
    end
  end
  return huge
end

-- Until nothing is taken of it.
local function whole(window)
  if window.taken == 0 then return 0 end
  if window.bound[1] ~= RING then return window.ends end
  for to = window.newest, window.oldest, -16 do
    local from = max(to - 15, window.oldest)
    if window.current == 0 then fetch(window, from, to) end
    for bucket = to, from, -1 do
      if (amount_in(window, bucket) or 0) ~= 0 then return leaves(window, bucket) end
    end
  end
  return 0
end

local function save_window(window)
  if not window or not window.touched then return end
  local meta = struct.pack('<ddddd', window.life, window.newest, window.oldest, window.taken, window.current)
  local fields = {'m', meta}
  for bucket in pairs(window.unsaved) do
    fields[#fields + 1] = bucket
    fields[#fields + 1] = window.amounts[bucket]
  end
  redis_call('HSET', window.key, unpack(fields))
  if window.moved or window.bound[1] == LIFETIME then redis_call('EXPIRE', window.key, window.bound[3]) end
end

-- The slots of this bound: the holder's own, and those of all others together.
local function slots_of(index)
  local held = slots[index]
  if held == nil then
    held = {key = KEYS[index + 1], count = 0, others = 0}
    slots[index] = held
    local found = redis_call('HGETALL', held.key)
    for at = 1, #found, 2 do
      local count, life, expires = struct.unpack('<ddd', found[at + 1])
      if expires <= now then
        redis_call('HDEL', held.key, found[at])
      elseif found[at] == holder then
        held.count, held.life = count, life
      else
        held.others = held.others + count
      end
    end
  end
  return held
end

local function hold(held, amount)
  if held.count == 0 then held.life = now end
  held.count, held.touched = held.count + amount, true
end

local function release(held, life, amount)
  if held.count > 0 and held.life == life then held.count, held.touched = max(0, held.count - amount), true end
end

local function save_slots(held)
  if not held.touched then return end
  if held.count > 0 then
    redis_call('HSET', held.key, holder, struct.pack('<ddd', held.count, held.life, now + HOLD))
    redis_call('EXPIRE', held.key, HOUR)
  else
    redis_call('HDEL', held.key, holder)
  end
end

-- What this call takes, so that the next one can undo it: key, bucket, life, amount.
local takings = {}

local function note(key, bucket, life, amount)
  if amount > 0 then takings[#takings + 1] = {key, bucket, life, amount} end
end

local function undo(taken)
  local indices = {}
  for index in ipairs(bounds) do indices[KEYS[index + 1]] = index end
  for _, taking in ipairs(taken) do
    local key, bucket, life, amount = unpack(taking)
    local index = indices[key]
    if index and bounds[index][1] == SLOTS then
      release(slots_of(index), life, amount)
    elseif index then
      local window = window_of(index)
      if window and window.life == life then give_back(window, bucket, amount) end
    end
  end
end

-- A change: bound, bucket and life, what goes back, what is taken besides, and what is taken where that life is over.
-- Not sure whether it was done before: nothing goes back.
local function change(sure, index, bucket, life, back, extra, all)
  if bounds[index][1] == SLOTS then
    release(slots_of(index), life, back)
    return
  end
  local window = window_of(index)
  if not window then return end -- never asked for, so that its seed will have it
  if window.life ~= life then
    back, extra = 0, all
  end
  if back > 0 and sure then give_back(window, bucket, back) end
  if extra > 0 then take(window, extra) end
end

-- Go on holding: what the holder says to have in that life, and in none any more. The life it is in, and what was
-- taken again.
local function renew(index, life, count, strays)
  local held = slots_of(index)
  local again = (held.count > 0 and held.life == life) and strays or count + strays
  if again > 0 then hold(held, again) end
  held.touched = true
  note(held.key, 0, held.life, again)
  return {held.life or 0, again}
end

local function plant(index, spent)
  if window_of(index) then return end
  local window, bound = new_window(index), bounds[index]
  window.life, window.newest, window.taken, window.current = now, bucket_of(bound, now), 0, 0
  window.oldest = oldest_of(bound, window.newest)
  window.touched, window.moved = true, true
  for _, each in ipairs(spent) do
    local bucket, amount = bucket_of(bound, now - each[1]), each[2]
    if bucket >= window.newest then
      take(window, amount)
    elseif bucket >= window.oldest then
      window.amounts[bucket], window.unsaved[bucket] = (window.amounts[bucket] or 0) + amount, true
      window.taken = window.taken + amount
    end
  end
  advance(window)
end

local function finite(span)
  return span == huge and NEVER or span
end

local function grant(wanted, more, more_slots, over)
  local rows, valid = {}, LEASE
  for at, each in ipairs(wanted) do
    local index, amount, limit = each[1], each[2] * (1 + more), each[4]
    if bounds[index][1] == SLOTS then
      local held = slots_of(index)
      amount = each[2] * (1 + more_slots)
      if amount > 0 then hold(held, amount) end
      note(held.key, 0, held.life, amount)
      rows[at] = {0, held.life or 0, limit - held.count - held.others, 0}
    else
      local window = window_of(index)
      take(window, amount)
      note(window.key, window.newest, window.life, amount)
      valid = min(valid, window.ends)
      rows[at] = {window.newest, window.life, limit - window.taken, finite(whole(window))}
    end
  end
  return {'granted', more, more_slots, rows, valid, over}
end

-- All claims or none. Each of `wanted`: bound, claim, what others get first, the limit, and whether it refuses.
local function lease(more, sharers, wanted)
  local unknown, short, over, more_slots = {}, {}, {}, more
  for at, each in ipairs(wanted) do
    local index, claim, ahead, limit, enforced = unpack(each)
    local window, taken
    if bounds[index][1] == SLOTS then
      local held = slots_of(index)
      taken = held.count + held.others
    else
      window = window_of(index)
      if window then taken = window.taken end
    end
    if not taken then
      unknown[#unknown + 1] = at - 1
    elseif limit - taken < claim then
      more = 0
      if enforced then
        local left, span = limit - taken, false
        if claim > limit then
          span = NEVER
        elseif window then
          span = finite(wait(window, claim + ahead - left))
        end
        short[#short + 1] = {at - 1, left, span}
      else
        over[#over + 1] = at - 1
      end
    elseif claim > 0 then
      local plenty = floor((limit - taken - claim) / (2 * sharers * claim))
      if bounds[index][1] == SLOTS then more_slots = min(more_slots, plenty) else more = min(more, plenty) end
    end
  end
  if #unknown > 0 then return {'unknown', unknown} end
  if #short > 0 then return {'refused', short} end
  more_slots = min(more, more_slots)
  return grant(wanted, more_slots > 0 and more or 0, more_slots, over)
end

local last, taken_by_last = 0, {}
local session = redis_call('GET', KEYS[1])
if session then last, taken_by_last = unpack(cmsgpack.unpack(session)) end
if last >= number then return false end
if last > received then undo(taken_by_last) end
local first, changes = unpack(batch)
if first > last then
  local sure = first == number or session
  for _, each in ipairs(changes) do change(sure, unpack(each)) end
end
local renewed, answers = {}, {}
for index, each in ipairs(renewals) do renewed[index] = renew(unpack(each)) end
for _, each in ipairs(seeds) do plant(unpack(each)) end
for index, each in ipairs(leases) do answers[index] = lease(unpack(each)) end
for _, window in pairs(windows) do save_window(window) end
for _, held in pairs(slots) do save_slots(held) end
redis_call('SETEX', KEYS[1], HOUR, cmsgpack.pack({number, takings}))
return cmsgpack.pack({renewed, answers})
