"""Templates of sentences by language. Both languages have the same keys, and every sentence has at least one number."""

from __future__ import annotations

_ENGLISH = {
    "quoted": "“{}”", "comma": ", ", "and": " and ", "nothing": "no value", "list": "{values}, ... ({n} entries)",
    "place": "{item} is at place {rank} of {listed} on the list of user {user}.",
    "no_candidate": "{item} is not on the list of user {user}: none of the candidate sources brought it, and {listed} others are shown.",
    "dropped": "{item} is not among the {listed} on the list of user {user}: it was taken out at {step} ({reason}).",
    "source": "{source} at place {rank}", "sources": "{n} candidate source(s) brought it: {sources}.",
    "stage": "place {rank} after {step}", "stages": "Then it stood at {stages}; its ranking score is {score}.",
    "no_model": "No model ranks here: candidates are ordered by their places in the sources, of which {n} brought this one.",
    "difference_odds": "The model gives it log odds of {score} (a chance of {chance}%), where {compared} has {baseline}; the fields below account for the difference of {difference}, with an error of at most about {bound}.",
    "difference": "The model gives it {score}, where {compared} has {baseline}; the fields below account for the difference of {difference}, with an error of at most about {bound}.",
    "against_mean": "a usual pair of user and item", "against_alike": "the average of pairs with other values that are as frequent",
    "part_odds": "{field} = {value} ({points}, odds × {odds})", "part": "{field} = {value} ({points})", "against_value": "{mine} against {theirs}",
    "for": "For it speak: {parts}.", "against": "Against it speak: {parts}.",
    "entries_for": "Of the {n} entries of the user's lists, these speak for it: {parts}.", "entries_against": "Of the {n} entries of the user's lists, these speak against it: {parts}.",
    "above": "It scores above {over} by {difference}; what the fields below add up to can be off by about {bound}.", "not_above": "It does not score above {over}: it is {difference} below; what the fields below add up to can be off by about {bound}.",
    "contrast_for": "In its favour, compared: {parts}.", "contrast_against": "In favour of the other, compared: {parts}.",
    "whole": "All {listed} items of the list score {score} on average, which rests most on: {parts}.",
    "goal_first": "another item would come first", "goal_over": "{over} would come before it", "goal_list": "it would leave the list", "goal_below": "its score would fall below what was asked",
    "unit_action": "having wanted {value}", "unit_entry": "{value} in {field}", "unit_field": "{field} = {value}",
    "changed": "Without {removed} ({n} of the user's own actions and fields), {goal}: {scores} ({tried} requests were run).",
    "unchanged": "Nothing that was tried changes this: with any of the user's {units} actions and fields removed, alone or one after the other, it does not happen that {goal} ({tried} requests were run).",
    "scores": "{item} then scores {score}, {instead} {instead_score}", "scores_gone": "{item} is then no candidate at all", "scores_alone": "{item} then scores {score}",
    "smallest": "No smaller set does: all sets of fewer than {n} were tried.", "not_smallest": "None of these {n} could stay, but a smaller set of others may exist: not all were tried.",
    "sufficient": "That is also enough: with nothing else of the user ({n} of {units} kept) the answer stays.", "not_sufficient": "That alone is not enough: with nothing else of the user ({n} of {units} kept) the answer is another.",
    "own": "In training the user met it {met} time(s) and wanted it {wanted} time(s).",
    "others": "{wanted_by} other user(s) wanted it, {alike} of whom wanted something else that this user wanted.",
    "shared_item": "{item} ({users})", "shared": "Most often shared with them: {shared}; the most similar one shares {nearest}.",
}

_CHINESE = {
    "quoted": "「{}」", "comma": "、", "and": "和", "nothing": "无值", "list": "{values} 等（共 {n} 项）",
    "place": "{item} 在用户 {user} 的列表中排第 {rank} 位，列表共 {listed} 项。",
    "no_candidate": "{item} 不在用户 {user} 的列表中：没有候选来源召回它，列表展示的是另外 {listed} 项。",
    "dropped": "{item} 不在用户 {user} 的 {listed} 项列表中：在 {step} 一步被移除（{reason}）。",
    "source": "{source} 第 {rank} 位", "sources": "有 {n} 个候选来源召回了它：{sources}。",
    "stage": "{step} 之后第 {rank} 位", "stages": "随后的名次：{stages}；排序得分为 {score}。",
    "no_model": "这里没有排序模型：候选按其在来源中的名次排列，召回它的来源有 {n} 个。",
    "difference_odds": "模型给出的对数几率为 {score}（概率 {chance}%），{compared}为 {baseline}；以下字段解释了 {difference} 的差距，误差约不超过 {bound}。",
    "difference": "模型给出的分数为 {score}，{compared}为 {baseline}；以下字段解释了 {difference} 的差距，误差约不超过 {bound}。",
    "against_mean": "普通的用户与物品组合", "against_alike": "取值同样常见的其他组合平均",
    "part_odds": "{field} = {value}（{points}，几率 × {odds}）", "part": "{field} = {value}（{points}）", "against_value": "{mine} 对 {theirs}",
    "for": "支持它的有：{parts}。", "against": "不利于它的有：{parts}。",
    "entries_for": "用户列表的 {n} 条记录中，支持它的有：{parts}。", "entries_against": "用户列表的 {n} 条记录中，不利于它的有：{parts}。",
    "above": "它的得分比 {over} 高 {difference}；以下字段的合计误差约不超过 {bound}。", "not_above": "它的得分并不高于 {over}：低 {difference}；以下字段的合计误差约不超过 {bound}。",
    "contrast_for": "相比之下对它有利的：{parts}。", "contrast_against": "相比之下对另一项有利的：{parts}。",
    "whole": "列表的 {listed} 项平均得分为 {score}，主要依据：{parts}。",
    "goal_first": "第一位会换成另一项", "goal_over": "{over} 会排到它前面", "goal_list": "它会离开列表", "goal_below": "它的得分会低于所问的值",
    "unit_action": "对 {value} 的喜好行为", "unit_entry": "{field} 中的 {value}", "unit_field": "{field} = {value}",
    "changed": "如果去掉{removed}（用户自己的行为与字段共 {n} 项），{goal}：{scores}（共实际运行 {tried} 次请求）。",
    "unchanged": "所试的改动都不会改变结果：用户的 {units} 项行为与字段，无论单独还是依次去掉，都不会使“{goal}”成立（共实际运行 {tried} 次请求）。",
    "scores": "此时 {item} 得分 {score}，{instead} 得分 {instead_score}", "scores_gone": "此时 {item} 不再是候选", "scores_alone": "此时 {item} 得分 {score}",
    "smallest": "没有更小的集合：少于 {n} 项的所有集合都试过了。", "not_smallest": "这 {n} 项缺一不可，但未试遍所有组合，可能存在更小的其他集合。",
    "sufficient": "这也足够：在 {units} 项中只保留这 {n} 项，结果不变。", "not_sufficient": "但仅此还不够：在 {units} 项中只保留这 {n} 项，结果会不同。",
    "own": "训练数据中，该用户接触过它 {met} 次，喜欢过 {wanted} 次。",
    "others": "另有 {wanted_by} 位用户喜欢它，其中 {alike} 位还喜欢该用户喜欢过的其他物品。",
    "shared_item": "{item}（{users}）", "shared": "与他们最常共同喜欢的有：{shared}；最相似的一位共有 {nearest} 项。",
}

TEMPLATES = {"en": _ENGLISH, "zh": _CHINESE}
"""Language to its templates."""
