"""Mutated files of a user, given to what reads them: each must end as a reason, never as a crash or a hang."""
