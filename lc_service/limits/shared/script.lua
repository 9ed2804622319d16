-- What processes share of one endpoint, credential and model: two buckets for each limit (the server's as its
-- headers show it, and the pace), places, a pause. Knows how to count; what rates and capacities are, it is told.
--
-- KEYS[1]: the state.  ARGV: the step, the time ('' is Redis's own), then what the step asks for.
-- Every step answers {time, epoch, pause, ...}; the epoch tells a state from the one before it was lost.
local LIFETIME_MS = 3600000
local LEASE, LINE = 60, 2         -- seconds after which a process that says nothing has no places, no turn
local LOOK, OVERTAKING = 0.25, 0.05
local ENOUGH = 1e-6

local at = 2
local function text() at = at + 1; return ARGV[at] end
local function number() return tonumber(text()) end

local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1e6
end
local packed = redis.call('GET', KEYS[1])
local state = packed and cmsgpack.unpack(packed)
  or {epoch = now, paused = 0, paused_by = 0, places = {}, line = {}, limits = {{sum = 0}, {sum = 0}}}

local function shown(value) return string.format('%.17g', value) end

local function refill(bucket)
  local elapsed = now - bucket.at
  if elapsed > 0 then
    local full = math.max(bucket.level, bucket.capacity + bucket.margin)
    bucket.level = math.min(full, bucket.level + elapsed * bucket.rate)
    bucket.at = now
  end
end

-- The time until `units` fit before which `behind` units, of later requests, are not to be counted.
local function seconds_until(bucket, units, behind)
  refill(bucket)
  local needed = math.min(units * bucket.ratio, bucket.capacity) + bucket.margin
  local missing = needed - bucket.level - behind * bucket.ratio
  return missing > ENOUGH and missing / bucket.rate or 0
end

local function longest_wait(units, position)
  local wait = 0
  for d, limit in ipairs(state.limits) do
    local behind = position and limit.sum - position[d] + units[d] or 0
    for _, kind in ipairs({'server', 'pace'}) do
      if limit[kind] then wait = math.max(wait, seconds_until(limit[kind], units[d], behind)) end
    end
  end
  return wait
end

local function count(units)
  for d, limit in ipairs(state.limits) do
    limit.sum = limit.sum + units[d]
    for _, kind in ipairs({'server', 'pace'}) do
      if limit[kind] then limit[kind].level = limit[kind].level - units[d] * limit[kind].ratio end
    end
  end
end

local function set_pace(limit, rate, capacity, ratio)
  local pace = limit.pace
  if not pace then
    pace = {level = capacity - math.min(limit.sum, capacity), at = now, margin = 0}
    limit.pace = pace
  else
    refill(pace)
  end
  pace.rate, pace.capacity, pace.ratio = rate, capacity, ratio
end

-- Down by any response, up by what all of a while agree on.
local function correct(limit, sent_at, remaining, position)
  local server = limit.server
  local level = remaining + (now - sent_at) * server.rate - (limit.sum - position) * server.ratio
  level = math.min(level, server.capacity + server.margin)
  if not server.level then
    server.level, server.at = level, now
    limit.newest, limit.least, limit.look = sent_at, math.huge, now
    return
  end
  refill(server)
  local off = level - server.level
  if off < 0 then
    server.level = level
  elseif sent_at < limit.newest - OVERTAKING then
    return
  end
  limit.newest = math.max(limit.newest, sent_at)
  limit.least = math.min(limit.least, math.max(0, off))
  if now - limit.look >= LOOK then
    server.level = server.level + limit.least
    limit.least, limit.look = math.huge, now
  end
end

-- Whether the process gets a place: there is one, and as many that wait for one before it get theirs.
local function enter(process, held, most)
  local free = most
  for other, place in pairs(state.places) do
    if place[2] < now then state.places[other] = nil
    elseif other ~= process then free = free - place[1] end
  end
  free = free - held
  state.places[process] = {held, now + LEASE}
  local line, turn = {}, nil
  for _, waiting in ipairs(state.line) do
    if waiting[2] > now - LINE then
      line[#line + 1] = waiting
      if waiting[1] == process then turn, waiting[2] = #line, now end
    end
  end
  state.line = line
  if (turn or #line + 1) > free then
    if not turn then line[#line + 1] = {process, now} end
    return false
  end
  if turn then table.remove(line, turn) end
  state.places[process][1] = held + 1
  return true
end

local steps = {}

function steps.take()
  local process, is_retry, most, held = text(), text() == '1', number(), number()
  local units = {}
  for d, limit in ipairs(state.limits) do
    units[d] = number()
    local rate, capacity = number(), number()
    if rate and not limit.pace then set_pace(limit, rate, capacity, 1) end
  end
  if most and not enter(process, held, most) then return {'0', '0', '0', '0'} end
  local wait = longest_wait(units)
  if not is_retry then wait = math.max(wait, state.paused - now) end
  count(units)
  return {'1', shown(wait), shown(state.limits[1].sum), shown(state.limits[2].sum)}
end

function steps.look()
  local is_retry, position, units = text() == '1', {number(), number()}, {number(), number()}
  local wait = longest_wait(units, position)
  if not is_retry then wait = math.max(wait, state.paused - now) end
  return {'1', shown(wait), shown(position[1]), shown(position[2])}
end

function steps.see()
  local epoch, sent_at = number(), number()
  for _, limit in ipairs(state.limits) do
    local remaining, position = number(), number()
    local rate, capacity, margin, ratio = number(), number(), number(), number()
    local pace_rate, pace_capacity = number(), number()
    if remaining and epoch == state.epoch then
      limit.server = limit.server or {}
      local server = limit.server
      server.rate, server.capacity, server.margin, server.ratio = rate, capacity, margin, ratio
      correct(limit, sent_at, remaining, position)
      set_pace(limit, pace_rate, pace_capacity, ratio)
    end
  end
  return {}
end

-- What was counted and never sent.
function steps.undo()
  local epoch, units = number(), {-number(), -number()}
  if epoch == state.epoch then count(units) end
  return {}
end

-- What was sent and not used, where no headers tell it.
function steps.give_back()
  local epoch, tokens = number(), number()
  local limit = state.limits[2]
  if epoch == state.epoch and limit.pace and not limit.server then
    limit.pace.level = math.min(limit.pace.capacity, limit.pace.level + tokens)
  end
  return {}
end

function steps.pause()
  local sent_at, seconds = number(), number()
  state.paused, state.paused_by = math.max(state.paused, now + seconds), sent_at
  return {}
end

-- A request came through that was sent after the one that was told to wait.
function steps.prove()
  if number() > state.paused_by + OVERTAKING then state.paused = 0 end
  return {}
end

function steps.leave()
  local place = state.places[text()]
  if place then place[1] = math.max(0, place[1] - 1) end
  return {}
end

function steps.renew()
  local process, held = text(), number()
  local place = state.places[process]
  state.places[process] = {place and place[1] or held, now + LEASE}
  return {}
end

local answer = steps[ARGV[1]]()
redis.call('SET', KEYS[1], cmsgpack.pack(state), 'PX', LIFETIME_MS)
local head = {shown(now), shown(state.epoch), shown(math.max(0, state.paused - now))}
for _, value in ipairs(answer) do head[#head + 1] = value end
return head
