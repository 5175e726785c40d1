"""What a hostile function would try, and who judges what came of it; see `sandbox doctor
--attack`.
"""
