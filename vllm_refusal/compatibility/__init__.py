"""What the plugin relies on in vLLM beyond its public interface, named once and checked before anything is wrapped.

surfaces      the table: what is wrapped, called and read, and the versions that it was tested on
definitions   what a module of vLLM defines, read from its compiled code without importing it
checking      a surface that is not as expected is refused by name, another version is warned of
wrapping      wraps a function of the table
"""
