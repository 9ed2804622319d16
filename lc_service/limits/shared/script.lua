-- What processes share of one endpoint, credential and model: two buckets for each limit (the server's as its
-- headers show it, and the pace), places, a pause. Knows how to count; what rates and capacities are, it is told.
--
-- KEYS[1]: the state, one value that expires.  ARGV: the step, the time ('' is Redis's own), the step's arguments.
-- Every step answers {time, epoch, pause, ...}; the epoch tells a state from the one before it was lost.
-- A step takes the same time however many requests there are; with places it looks at each process that holds some.
local LIFETIME_MS = 3600000
local LINE = 2                    -- seconds after which a process that asks for no place has lost its turn
local LOOK, OVERTAKING = 0.25, 0.05
local PENDING = 30
local ENOUGH = 1e-6
local KINDS = {'server', 'pace'}
local REFUSED = {'0', '0', '0', '0'}

local at = 2
local function text() at = at + 1; return ARGV[at] end
local function number() return tonumber(text()) end

local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1e6
end
local packed = redis.call('GET', KEYS[1])
local state = packed and cmsgpack.unpack(packed) or {
  epoch = now, now = now, skew = 0, paused = 0, paused_by = 0, places = {}, line = {},
  limits = {{sum = 0, sent = 0, newest = 0}, {sum = 0, sent = 0, newest = 0}},
}
-- The state's own clock goes on where Redis's is set back.
state.skew = math.max(state.skew, state.now - now)
now = now + state.skew
-- What was counted and is never sent, for its process crashed, counts as sent after a while.
for _, limit in ipairs(state.limits) do
  limit.sent = limit.sum - (limit.sum - limit.sent) * math.exp((state.now - now) / PENDING)
end
state.now = now

local function shown(value) return string.format('%.17g', value) end

local function refill(bucket)
  local full = math.max(bucket.level, bucket.capacity + bucket.margin)
  bucket.level = math.min(full, bucket.level + (now - bucket.at) * bucket.rate)
  bucket.at = now
end

local function give_back(bucket, units)
  refill(bucket)
  local full = math.max(bucket.level, bucket.capacity + bucket.margin)
  bucket.level = math.min(full, bucket.level + units * bucket.ratio)
end

-- The time until `units` fit before which `behind` units, of later requests, are not to be counted.
local function seconds_until(bucket, units, behind)
  refill(bucket)
  local needed = math.min(units * bucket.ratio, bucket.capacity) + bucket.margin
  local missing = needed - bucket.level - behind * bucket.ratio
  return missing > ENOUGH and missing / bucket.rate or 0
end

local function longest_wait(units, position, is_retry)
  local wait = is_retry and 0 or math.max(0, state.paused - now)
  for d, limit in ipairs(state.limits) do
    local behind = position and limit.sum - position[d] + units[d] or 0
    for _, kind in ipairs(KINDS) do
      if limit[kind] then wait = math.max(wait, seconds_until(limit[kind], units[d], behind)) end
    end
  end
  return wait
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
  local after = math.max(0, limit.sum - position)
  local level = remaining + (now - sent_at) * server.rate - after * server.ratio
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

local function hold(process, held, lease)
  state.places[process] = held > 0 and {held, now + lease} or nil
end

-- Whether the process gets a place: there is one, and as many that wait for one before it get theirs.
local function enter(process, held, lease, most)
  hold(process, held, lease)
  local free = most
  for other, place in pairs(state.places) do
    if place[2] < now then state.places[other] = nil else free = free - place[1] end
  end
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
  return true
end

local steps = {}

-- A turn, counted now whenever it comes. Refused where there is no place.
function steps.take()
  local is_retry, units = text() == '1', {}
  for d, limit in ipairs(state.limits) do
    units[d] = number()
    local rate, capacity = number(), number()
    if rate and not limit.pace then set_pace(limit, rate, capacity, 1) end
  end
  local most = number()
  if most then
    local process, held, lease, is_urgent = text(), number(), number(), text() == '1'
    if not is_urgent and not enter(process, held, lease, most) then return REFUSED end
    hold(process, held + 1, lease)
  end
  local wait = longest_wait(units, nil, is_retry)
  for d, limit in ipairs(state.limits) do
    limit.sum = limit.sum + units[d]
    for _, kind in ipairs(KINDS) do
      if limit[kind] then limit[kind].level = limit[kind].level - units[d] * limit[kind].ratio end
    end
  end
  return {'1', shown(wait), shown(state.limits[1].sum), shown(state.limits[2].sum)}
end

-- How long a turn that was given still takes. Refused where this state knows nothing of it.
function steps.look()
  local epoch, is_retry = number(), text() == '1'
  local position, units = {number(), number()}, {number(), number()}
  if epoch ~= state.epoch then return REFUSED end
  return {'1', shown(longest_wait(units, position, is_retry)), shown(position[1]), shown(position[2])}
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
end

-- It goes out: what of all that was counted is sent by now, this included.
function steps.send()
  local epoch, answer = number(), {}
  for d, limit in ipairs(state.limits) do
    local units = number()
    if epoch == state.epoch then limit.sent = math.min(limit.sum, limit.sent + units) end
    answer[d] = shown(limit.sent)
  end
  return answer
end

local function uncount(kinds, is_sent)
  local epoch = number()
  for _, limit in ipairs(state.limits) do
    local units = number()
    if epoch == state.epoch then
      limit.sum = limit.sum - units
      limit.sent = math.min(limit.sum, is_sent and limit.sent - units or limit.sent)
      limit.newest = now + OVERTAKING  -- what answers tell of requests before now counts it: raise nothing by them
      for _, kind in ipairs(kinds) do
        if limit[kind] then give_back(limit[kind], units) end
      end
    end
  end
end

-- A turn that was counted and not used.
function steps.undo() uncount(KINDS, false) end

-- A turn that was used, and that the server took nothing for.
function steps.reject() uncount({'server'}, true) end

-- Tokens that were sent and not used, where no headers tell it.
function steps.give_back()
  local epoch, tokens = number(), number()
  local limit = state.limits[2]
  if epoch == state.epoch and limit.pace and not limit.server then give_back(limit.pace, tokens) end
end

function steps.pause()
  local sent_at, seconds = number(), number()
  state.paused = math.max(state.paused, now + seconds)
  state.paused_by = math.max(state.paused_by, sent_at)
end

-- A request came through that was sent after the one that was told to wait.
function steps.prove()
  if number() > state.paused_by + OVERTAKING then state.paused = 0 end
end

function steps.hold()
  local process, held, lease = text(), number(), number()
  hold(process, held, lease)
end

-- Whether this Redis can do what is asked of it.
function steps.try() end

local answer = steps[ARGV[1]]() or {}
redis.call('SET', KEYS[1], cmsgpack.pack(state), 'PX', LIFETIME_MS)
return {shown(now), shown(state.epoch), shown(math.max(0, state.paused - now)), unpack(answer)}
