-- Note a ticket of a user, and forget those that have expired. The tickets themselves are in other slots.
-- KEYS: tickets of the user, each with its number and its end in ms
-- ARGV: ticket, ms, most tickets
-- Answer: the tickets above that many, oldest first; they stay noted until whoever asked has dropped them
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local noted = redis.call('HGETALL', KEYS[1])
local kept, last = {}, 0
for i = 1, #noted, 2 do
  local number, ends = string.match(noted[i + 1], '^(%d+) (%d+)$')
  if number and noted[i] ~= ARGV[1] and tonumber(ends) >= now then
    kept[#kept + 1] = {tonumber(number), noted[i]}
    last = math.max(last, tonumber(number))
  else
    redis.call('HDEL', KEYS[1], noted[i])
  end
end
kept[#kept + 1] = {last + 1, ARGV[1]}
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f', last + 1, now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]))))
table.sort(kept, function(one, other) return one[1] < other[1] end)
local above = {}
for i = 1, #kept - ARGV[3] do above[i] = kept[i][2] end
return above
