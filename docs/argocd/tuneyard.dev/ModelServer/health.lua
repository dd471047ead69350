-- The health of a ModelServer for Argo CD: Healthy when what the spec asks for is served. A server that follows a
-- FineTuneJob is Healthy while it serves the last release and the job trains again.
local hs = {status = "Progressing", message = "Waiting for the operator"}
if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  hs.message = "The operator has not observed the new spec yet"
  return hs
end

local by_type = {}
for _, condition in ipairs(obj.status.conditions) do
  by_type[condition.type] = condition
end

local function is_true(type)
  return by_type[type] ~= nil and by_type[type].status == "True"
end

local function report(status, condition)
  hs.status = status
  hs.message = condition.message or ""
  return hs
end

local function report_with_reason(status, condition)
  report(status, condition)
  hs.message = condition.reason .. (hs.message ~= "" and ": " .. hs.message or "")
  return hs
end

-- Reasons for which a spec is not carried out until somebody changes it, or the operator's settings.
local refused = {InvalidSpec = true, FormatNotExported = true, ImageNotConfigured = true}

local available, progressing = by_type.Available, by_type.Progressing
if is_true("Degraded") then
  return report_with_reason("Degraded", by_type.Degraded)
end
if progressing ~= nil and refused[progressing.reason] then
  return report_with_reason("Degraded", progressing)
end
if is_true("Progressing") then
  return report("Progressing", progressing)
end
if is_true("Available") then
  return report("Healthy", available)
end
if available == nil then
  return hs
end
if available.reason == "ScaledToZero" then
  return report("Suspended", available)
end
if available.reason == "GateFailed" then
  return report_with_reason("Degraded", available)
end
return report_with_reason("Progressing", available)
